"""From what a row has summed up to a `Measurement`, and the cosines that tell signal from noise in its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.state import Interval, State
from llmo.measurement import Measurement, Triple


class GradientCosines:
    """Looks at the last two gradients of each row's interval.

    Args:
        counts: Optimizer steps of the interval, by row.
    """

    def __init__(self, counts: dict[int, int]) -> None:
        self._counts = counts
        self._previous: dict[int, Tensor] = {}

    def look(self, row: int, step: int, gradient: Tensor, first: Tensor, interval: Interval) -> None:
        """Note what is to be noted.

        Args:
            row: Whose gradient it is.
            step: Of the interval, from 0.
            gradient: [P].
            first: First moments before it, [P].
            interval: Gets the cosines.
        """
        left = self._counts[row] - 1 - step
        if left == 1:
            self._previous[row] = gradient.clone()
        elif left == 0:
            interval.momentum_cosine = _cosine(gradient, first)
            if row in self._previous:
                interval.gradient_cosine = _cosine(gradient, self._previous[row])


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors, -1 to 1; 0 where one of them is zero."""
    scale = (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)).item()
    return torch.dot(a, b).item() / scale if scale > 0 else 0.0


def update_ratio(before: Tensor, after: Tensor) -> float:
    """Norm of a change of weights [P] over the norm of the weights; 0 where it is not finite."""
    change, scale = torch.linalg.vector_norm(after - before).item(), torch.linalg.vector_norm(after).item()
    ratio = change / scale if scale > 0 else 0.0
    return ratio if math.isfinite(ratio) else 0.0


def measurement(state: State, interval: Interval) -> Measurement:
    """What a row's interval measured.

    Args:
        state: The row after its validation pass.
        interval: The sums that it closed.
    """
    counts = interval.source_count
    steps = max(1, interval.steps)
    sources = state.problem.task.sources
    return Measurement(
        step=state.step,
        optimizer_steps=interval.steps,
        spent=state.share,
        cost=interval.cost,
        validation_loss=state.loss,
        best_validation_loss=state.best_loss,
        train_loss=interval.loss / steps if interval.steps else math.nan,
        source_loss=_triple(state.source_loss),
        source_share=_triple(counts / max(1, counts.sum())),
        source_tokens=_triple(np.array([len(sources[role]) for role in state.roles])),
        mixture=_triple(state.mixture),
        gradient_norm=interval.norm / steps,
        clipped=interval.clipped / steps,
        momentum_cosine=interval.momentum_cosine,
        gradient_cosine=interval.gradient_cosine,
        update_ratio=interval.update_ratio,
        learning_rate=interval.learning_rate,
        teacher_loss=state.teacher_loss,
        diverged=state.diverged,
    )


def _triple(values: NDArray[Any]) -> Triple:
    a, b, c = (float(value) for value in values)
    return a, b, c
