"""AdamW on rows: every replica its own rate, decay and step count, with torch's fused kernel."""

from __future__ import annotations

import torch
from torch import Tensor

CLIP_NORM = 1.0
BETAS = (0.9, 0.95)
EPSILON = 1e-8


class RowAdamW:
    """`torch.optim.AdamW` with one parameter group a row and its moments in flat buffers.

    Args:
        weights: What is trained, [N, P]; updated in place.
        moments: First moments [N, P], second moments [N, P] and optimizer steps taken [N]; updated in place.
    """

    def __init__(self, weights: Tensor, moments: tuple[Tensor, Tensor, Tensor]) -> None:
        # Views made once: making them at every step costs as much as the kernel.
        self._rows = list(zip(weights, *moments, strict=True))

    def first(self, row: int) -> Tensor:
        """First moments of a row, [P]."""
        return self._rows[row][1]

    def step(self, row: int, gradient: Tensor, rate: float, decay: float) -> None:
        """One update of one row.

        Args:
            row: Which.
            gradient: Clipped gradient, [P].
            rate: Learning rate.
            decay: Decoupled weight decay.
        """
        weights, first, second, steps = self._rows[row]
        steps += 1
        # What `torch.optim.AdamW(fused=True)` calls, without its bookkeeping, which costs more than the update.
        torch._fused_adamw_(
            [weights], [gradient], [first], [second], [], [steps],
            lr=rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=decay, eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip

    def reset(self, row: int) -> None:
        """Forget a row's moments and step count."""
        for moment in self._rows[row][1:]:
            moment.zero_()


def clip_rows(gradient: Tensor) -> list[float]:
    """Scale each row [n, P] to a norm of at most `CLIP_NORM`, in place; gives the norms before."""
    # One row at a time: a reduction over all of them may add in another order when there is only one.
    norms = [torch.linalg.vector_norm(row).item() for row in gradient]
    for row, norm in zip(gradient, norms, strict=True):
        if norm > CLIP_NORM:
            row.mul_(CLIP_NORM / norm)
    return norms
