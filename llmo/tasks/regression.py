"""Sequence regression: a number for each text."""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.tasks.labelled import Labelled


class Regression(Labelled):
    """Examples with a number each; the loss is the squared error. Labels are float32, [N, 1]."""

    padded = False

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Task.loss`; there are no soft targets for a number."""
        error = (logits.squeeze(-1) - labels).square()
        return error, error.detach()

    @torch.no_grad()
    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.score`: the mean squared error."""
        return (logits.squeeze(-1) - labels).square().double().mean((-2, -1))
