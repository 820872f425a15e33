"""What gradients and updates of a model that somebody else trains look like, on a sample of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = 1024
"""Entries of a matrix that are looked at, about."""


@dataclass
class Looks:
    """What an interval's looks have seen.

    Attributes:
        norms: Norm of each gradient that was looked at, as the optimizer gets it.
        momentum_cosine: Cosine of the last gradient and the first moment.
        gradient_cosine: Cosine of the last two gradients of neighbouring steps.
    """

    norms: list[float] = field(default_factory=list)
    momentum_cosine: float = 0.0
    gradient_cosine: float = 0.0


class Gauge:
    """Looks at gradients now and then.

    Args:
        model: Its matrices that are trained are sampled evenly.

    Attributes:
        looks: Since the last `close`.
    """

    def __init__(self, model: nn.Module) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._matrices = [parameter for parameter in trained if parameter.ndim > 1] or trained
        # Odd, so that it does not meet the same column again and again.
        self._strides = [max(1, parameter.numel() // SAMPLE) | 1 for parameter in self._matrices]
        self._weights = self._sample(self._matrices)
        # An entry of the sample stands for as many as its matrix has left out.
        counts = [-(-parameter.numel() // stride) for parameter, stride in zip(self._matrices, self._strides)]
        shares = [math.sqrt(parameter.numel() / count) for parameter, count in zip(self._matrices, counts)]
        self._scales = torch.tensor(shares).repeat_interleave(torch.tensor(counts)).to(self._weights.device)
        self._before: Tensor | None = None
        self._looked_at = -2
        self.looks = Looks()

    def look(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Look at the gradients before the optimizer takes a step.

        Args:
            step: Number of the step; neighbours are compared.
            optimizer: Whose first moments are read, if it has some of the gradients' shapes.
        """
        gradients = [parameter.grad for parameter in self._matrices]
        if any(gradient is None for gradient in gradients):
            return
        now = self._sample(gradients)
        self.looks.norms.append(self._norm(now))
        moments = [optimizer.state.get(parameter, {}).get("exp_avg") for parameter in self._matrices]
        # Some optimizers keep them in another space, of fewer dimensions.
        if [getattr(moment, "shape", None) for moment in moments] == [matrix.shape for matrix in self._matrices]:
            self.looks.momentum_cosine = _cosine(now, self._sample(moments))
        if self._before is not None and step == self._looked_at + 1:
            self.looks.gradient_cosine = _cosine(now, self._before)
        self._before, self._looked_at = now, step

    def close(self) -> tuple[Looks, float]:
        """What was seen since the last call, and by how much the matrices changed, relative to their norm."""
        now, looks = self._sample(self._matrices), self.looks
        change, size = self._norm(now - self._weights), self._norm(now)
        self._weights, self.looks = now, Looks()
        ratio = change / size if size > 0 else 0.0
        return looks, ratio if math.isfinite(ratio) else 0.0

    def first_ratio(self, rate: float) -> float:
        """What Adam's first step will change: every entry by the rate, relative to the norm of the matrices."""
        size = self._norm(self._weights)
        count = sum(parameter.numel() for parameter in self._matrices)
        return rate * math.sqrt(count) / size if size > 0 else 0.0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a resumed training needs: JSON, and tensors."""
        tensors = {"weights": self._weights, **({} if self._before is None else {"before": self._before})}
        return {**asdict(self.looks), "looked_at": self._looked_at}, tensors

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        looked_at = state.pop("looked_at")
        self.looks = Looks(**state)
        if "weights" in tensors:
            device = self._weights.device
            # Copies: what a file maps lies at odd addresses, where sums have other last bits.
            own = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
            self._weights, self._before, self._looked_at = own["weights"], own.get("before"), looked_at

    @torch.no_grad()
    def _sample(self, tensors: Sequence[Any]) -> Tensor:
        parts = [tensor.detach().flatten()[::stride].float() for tensor, stride in zip(tensors, self._strides)]
        return torch.cat([part.to(parts[0].device) for part in parts])

    def _norm(self, sample: Tensor) -> float:
        """Norm of all entries, from a sample."""
        return float((sample * self._scales).norm())


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 0 else 0.0
