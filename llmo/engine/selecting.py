"""Which half of twice as many candidates a run trains on: by their losses, so that it costs their forward passes.

`clean` drops what a reference finds unlikely: the teacher, or the running average of the weights where there is none.
`hard` keeps what the model itself finds hardest (Loshchilov and Hutter 2016, "Online batch selection"). `curriculum`
goes from the easiest to the hardest as the budget is spent (Bengio et al. 2009, "Curriculum learning").
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.engine.executors import Loss
from llmo.hyperparameters import Selection
from llmo.kinds import IGNORED

CANDIDATES = 2
"""Candidates for each sequence that is trained on."""


def candidates(selection: Selection) -> int:
    """How many are drawn for each sequence that is trained on."""
    return 1 if selection == "off" else CANDIDATES


def choose(losses: Tensor, selection: Selection, share: float) -> Tensor:
    """Places of the sequences that are trained on, [B], in their order, by the losses of the candidates [2 B].

    Args:
        losses: Those of the reference for ``clean``, else of the model itself.
        selection: Which are chosen.
        share: Of the budget that is spent, 0 to 1.
    """
    count = len(losses) // CANDIDATES
    easy = torch.argsort(losses, stable=True)
    first = {"off": 0, "clean": 0, "hard": count, "curriculum": round(share * count)}[selection]
    return easy[first : first + count].sort().values


def sequence_losses(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of each sequence, [n, B], of logits [n, B, P, C]."""
    _, reported = loss(logits, labels, None, None)
    if labels.is_floating_point():
        return reported.mean(-1)
    return reported.sum(-1) / (labels != IGNORED).sum(-1).clamp(min=1)
