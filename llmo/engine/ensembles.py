"""Predicting together: the probabilities of several weights are averaged, or each of them has a vote.

A mean of probabilities is a deep ensemble's (Lakshminarayanan et al. 2017); its members are moments of one training, as
in snapshot ensembles (Huang et al. 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.hyperparameters import Prediction

SMOOTHED = 0.1
"""Share of a vote's probability that is spread evenly over all classes, so that no loss is infinite."""


def shares(losses: Tensor) -> Tensor:
    """How much each member counts in a mean, [m], by validation losses [m].

    It is in proportion to exp(-loss), the chance that a member gives a label in the geometric mean.
    """
    return (-losses).softmax(0)


def together(logits: Tensor, share: Tensor, prediction: Prediction) -> Tensor:
    """Log-probabilities of an ensemble, [1, ..., C].

    Args:
        logits: Of each member, [m, ..., C].
        share: How much each counts in a mean, [m], at least 0, with a sum of 1; in a vote all count alike.
        prediction: ``average`` or ``vote``.
    """
    if prediction == "vote":
        classes = logits.shape[-1]
        votes = torch.nn.functional.one_hot(logits.argmax(-1), classes).to(logits.dtype).mean(0, keepdim=True)
        return ((1 - SMOOTHED) * votes + SMOOTHED / classes).log()
    weight = share.to(logits.dtype).log().view(-1, *[1] * (logits.dim() - 1))
    return (weight + logits.log_softmax(-1)).logsumexp(0, keepdim=True)
