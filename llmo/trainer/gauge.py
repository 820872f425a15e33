"""What gradients and updates of a model that somebody else trains look like, on a sample of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = 1024
"""Entries of a matrix that are looked at, about."""


@dataclass
class Looks:
    """What an interval's looks have seen.

    Attributes:
        norms: Norm of each gradient that was looked at.
        clipped: How many of them were clipped.
        momentum_cosine: Cosine of the last gradient and the first moment.
        gradient_cosine: Cosine of the last two gradients of neighbouring steps.
    """

    norms: list[float] = field(default_factory=list)
    clipped: int = 0
    momentum_cosine: float = 0.0
    gradient_cosine: float = 0.0


class Gauge:
    """Looks at gradients now and then.

    Args:
        model: Its matrices that are trained are sampled evenly.
        limit: Norm from which gradients are clipped; 0 for no clipping.

    Attributes:
        looks: Since the last `close`.
    """

    def __init__(self, model: nn.Module, limit: float) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._matrices = [parameter for parameter in trained if parameter.ndim > 1] or trained
        # Odd, so that it does not meet the same column again and again.
        self._strides = [max(1, parameter.numel() // SAMPLE) | 1 for parameter in self._matrices]
        self._limit = limit
        self._weights = self._sample(self._matrices)
        self._before: Tensor | None = None
        self._looked_at = -2
        self.looks = Looks()

    def look(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Look at the gradients before the optimizer takes a step.

        Args:
            step: Number of the step; neighbours are compared.
            optimizer: Whose first moments are read, if it has some.
        """
        gradients = [parameter.grad for parameter in self._matrices]
        if any(gradient is None for gradient in gradients):
            return
        now = self._sample(gradients)
        norm = math.sqrt(float((now.square() * self._scale(gradients)).sum()))
        self.looks.norms.append(norm)
        # By now they are clipped already, so that those that were have the limit's norm.
        self.looks.clipped += bool(self._limit) and norm > 0.95 * self._limit
        moments = [optimizer.state.get(parameter, {}).get("exp_avg") for parameter in self._matrices]
        if all(isinstance(moment, Tensor) for moment in moments):
            self.looks.momentum_cosine = _cosine(now, self._sample(moments))
        if self._before is not None and step == self._looked_at + 1:
            self.looks.gradient_cosine = _cosine(now, self._before)
        self._before, self._looked_at = now, step

    def close(self) -> tuple[Looks, float]:
        """What was seen since the last call, and by how much the matrices changed, relative to their norm."""
        now, looks = self._sample(self._matrices), self.looks
        scale = self._scale(self._matrices)
        change, size = (float((one.square() * scale).sum()) for one in (now - self._weights, now))
        self._weights, self.looks = now, Looks()
        ratio = math.sqrt(change / size) if size > 0 and math.isfinite(change) else 0.0
        return looks, ratio

    @torch.no_grad()
    def _sample(self, tensors: Sequence[Any]) -> Tensor:
        parts = [tensor.detach().flatten()[::stride].float() for tensor, stride in zip(tensors, self._strides)]
        return torch.cat([part.to(parts[0].device) for part in parts])

    def _scale(self, tensors: Sequence[Any]) -> Tensor:
        """For how many entries each of the sample stands."""
        return torch.cat(
            [
                torch.full((-(-tensor.numel() // stride),), tensor.numel() / -(-tensor.numel() // stride))
                for tensor, stride in zip(tensors, self._strides)
            ]
        ).to(tensors[0].device)


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 0 else 0.0
