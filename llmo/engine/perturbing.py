"""Training on inputs that are made harder: noise on the embeddings, or a step against the model.

`noise` is NEFTune's (Jain et al. 2023), `fgm` one step up the loss in the embedded inputs (Miyato et al. 2017), `pgd`
several of them in a ball (Madry et al. 2018), `swaps` replaces tokens by those that raise the loss most to first order
(Ebrahimi et al. 2018, "HotFlip"). All are in proportion to the norm of a sequence's embedded inputs, as nobody knows
the scale of a model's weights. NEFTune's noise is a tenth of it, which is what alpha = 5 is for LLaMA 7B.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llmo.engine.executors import Batch, Executor
from llmo.hyperparameters import Perturbation
from llmo.kinds import PADDING

NOISE, RADIUS = 0.1, 0.1
"""Norm of the noise, and of a step against the model, over that of the embedded inputs."""
PGD_STEPS = 3
SWAPPED = 0.1
"""Share of the tokens that are swapped."""
PASSES: dict[Perturbation, int] = {"off": 0, "noise": 0, "fgm": 1, "pgd": PGD_STEPS, "swaps": 1}
"""Gradients in the embedded inputs that each takes."""


def noise(embedded: Tensor, u: Tensor) -> Tensor:
    """NEFTune's noise for embedded inputs [B, T, width], from uniform numbers in [0, 1) of the same shape."""
    direction = 2 * u - 1
    # Uniform numbers in [-1, 1] have a mean square of a third.
    return NOISE * _norms(embedded) * direction * (3 / direction[0].numel()) ** 0.5


def against(executor: Executor, rows: Tensor, batch: Batch, embedded: Tensor, steps: int) -> Tensor:
    """What is added to embedded inputs [n, B, T, width] to raise the loss, in a ball around nothing.

    Args:
        executor: Of the rows.
        rows: What is trained, [n, P].
        batch: What it is trained on.
        embedded: The embedded inputs.
        steps: One leads to the edge of the ball; several of them, twice as far together, stay in it.
    """
    radius = RADIUS * _norms(embedded)
    added = torch.zeros_like(embedded)
    for _ in range(steps):
        gradient = executor.input_gradient(rows, replace(batch, added=added))
        length = radius if steps == 1 else 2 * radius / steps
        added = added + length * gradient / _norms(gradient)
        added = added * (radius / _norms(added)).clamp(max=1.0)
    return added


def swapped(executor: Executor, rows: Tensor, batch: Batch, embedded: Tensor, tables: Tensor) -> Tensor:
    """Inputs [n, B, T] with a tenth of the tokens replaced by those that raise the loss most, to first order.

    Args:
        executor: Of the rows.
        rows: What is trained, [n, P].
        batch: What it is trained on.
        embedded: The embedded inputs [n, B, T, width].
        tables: Embeddings of all tokens, [n, V, width].
    """
    gradient = executor.input_gradient(rows, replace(batch, added=torch.zeros_like(embedded)))
    gains = torch.einsum("nbtw,nvw->nbtv", gradient, tables) - (gradient * embedded).sum(-1, keepdim=True)
    best, others = gains.max(-1)
    best = best.masked_fill(batch.inputs == PADDING, -torch.inf)
    count = max(1, round(SWAPPED * batch.inputs.shape[-1]))
    places = best.topk(count, -1).indices
    hit = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, places, True) & (batch.inputs != PADDING)
    return torch.where(hit, others, batch.inputs)


def _norms(tensor: Tensor) -> Tensor:
    """Norm of each sequence, [..., B, 1, 1], of [..., B, T, width]; never zero."""
    return torch.linalg.vector_norm(tensor, dim=(-2, -1), keepdim=True).clamp_(min=1e-12)
