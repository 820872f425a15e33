"""Differentially private training: the gradient of each sequence is clipped, and noise is added.

DP-SGD is that of Abadi et al. 2016, "Deep learning with differential privacy"; what it costs is counted by opacus
(Renyi differential privacy, Mironov 2017). As usual batches count as Poisson samples; here they have a fixed size.

What is protected is one sequence: windows of running text start anywhere, so a stretch of text may be in several. The
noise follows from the run's seed, so that a run can be repeated: where it matters, the seed is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from llmo.engine.executors import Batch, Executor
from llmo.errors import LlmoError, needs_extra

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64))
"""Orders of Renyi divergence that are looked at: opacus' own."""


@dataclass(frozen=True)
class Privacy:
    """A budget of privacy, which cannot be overdrawn.

    Attributes:
        epsilon: What may be spent; positive.
        delta: Chance that the bound does not hold, in (0, 1).
        examples: How many sequences the data hold, at least 1.

    Raises:
        LlmoError: One of them is out of range.
    """

    epsilon: float
    delta: float
    examples: int

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise LlmoError("epsilon", self.epsilon, "a positive finite number")
        if not 0 < self.delta < 1:
            raise LlmoError("delta", self.delta, "a chance in (0, 1)")
        if self.examples < 1:
            raise LlmoError("private examples", self.examples, "at least 1")

    def spent(self, taken: Mapping[float, int], batch: int) -> float:
        """Epsilon of the steps that were taken at each noise multiplier.

        Args:
            taken: Noise multiplier to number of steps.
            batch: Sequences in a step.
        """
        total = [0.0] * len(ORDERS)
        rate = min(1.0, batch / self.examples)
        for noise, steps in taken.items():
            total = [sum_ + steps * one for sum_, one in zip(total, _renyi(rate, noise), strict=True)]
        return _epsilon(tuple(total), self.delta) if any(taken.values()) else 0.0

    def affordable(self, taken: Mapping[float, int], noise: float, batch: int, most: int) -> int:
        """How many more steps at a noise multiplier the budget pays for, at most so many."""

        def pays(steps: int) -> bool:
            return self.spent({**taken, noise: taken.get(noise, 0) + steps}, batch) <= self.epsilon

        least, above = 0, most + 1
        while above - least > 1:
            middle = (least + above) // 2
            least, above = (middle, above) if pays(middle) else (least, middle)
        return least


@lru_cache(maxsize=1024)
def _renyi(rate: float, noise: float) -> tuple[float, ...]:
    """What one step costs at every order."""
    needs_extra("private training", "opacus", "privacy")
    from opacus.accountants.analysis import rdp

    found = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=list(ORDERS))
    return tuple(float(one) for one in found)


@lru_cache(maxsize=4096)
def _epsilon(total: tuple[float, ...], delta: float) -> float:
    import warnings

    from opacus.accountants.analysis import rdp

    with warnings.catch_warnings():
        # It warns where the best order is the first or the last: the bound holds, but a better one may be known.
        warnings.simplefilter("ignore", UserWarning)
        epsilon, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=list(total), delta=delta)
    return float(epsilon)


def private_gradient(
    executor: Executor, row: Tensor, batch: Batch, clip: float, noise: float, seed: int, begin: int = 0
) -> tuple[Tensor, Tensor]:
    """Reported losses [1, B] of a batch, and its private gradient [1, P].

    Args:
        executor: Of the row.
        row: What is trained, [1, P].
        batch: Of one row.
        clip: Norm that each sequence's gradient is clipped to.
        noise: Standard deviation of the noise over that norm.
        seed: Of the noise.
        begin: Where the weights begin that are trained.
    """
    losses, gradients = gradients_by_sequence(executor, row, batch)
    gradients[:, :begin] = 0
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    total = (gradients * (clip / norms.clamp(min=1e-12)).clamp(max=1.0)).sum(0)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(total.shape, generator=generator).to(total.device)
    return losses.T, ((total + noise * clip * random) / len(losses))[None]


def gradients_by_sequence(executor: Executor, row: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Reported losses [B, 1] of a batch of one row [1, P], and each sequence's gradient [B, P]."""
    sequences = batch.inputs.shape[1]
    masks = None if batch.masks is None else batch.masks[0].transpose(0, 1)[:, :, None]
    apart = replace(batch, inputs=batch.inputs[0][:, None], labels=batch.labels[0][:, None], masks=masks, scale=None)
    if batch.scale is not None:
        counts = (batch.labels[0] >= 0).sum(-1).clamp(min=1)
        apart = replace(apart, scale=batch.positions / counts)
    if executor.lanes == 1:
        found = [executor.gradient(row, apart.rows(slice(at, at + 1))) for at in range(sequences)]
        losses = torch.cat([loss for loss, _ in found])
        gradients = torch.cat([gradient[:] for _, gradient in found])
    else:
        losses, whole = executor.gradient(row.expand(sequences, -1).contiguous(), apart)
        gradients = whole[:]
    return losses, gradients
