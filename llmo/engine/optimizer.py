"""AdamW on rows: every replica its own rate, decay and step count, with torch's fused kernel."""

from __future__ import annotations

import torch
from torch import Tensor

CLIP_NORM = 1.0
BETAS = (0.9, 0.95)


class RowAdamW:
    """`torch.optim.AdamW` with one parameter group a row and its moments in flat buffers.

    Args:
        rows: What is trained, [n, P]; updated in place.

    Attributes:
        first: First moments [n, P].
        second: Second moments [n, P].
        steps: Optimizer steps taken by each row, [n].
    """

    def __init__(self, rows: Tensor) -> None:
        self.first = torch.zeros_like(rows)
        self.second = torch.zeros_like(rows)
        self.steps = torch.zeros(len(rows))
        self._rows = list(rows)
        groups = [{"params": [row]} for row in self._rows]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, weight_decay=0.0, fused=True)
        for index, row in enumerate(self._rows):
            self._optimizer.state[row] = {
                "step": self.steps[index],
                "exp_avg": self.first[index],
                "exp_avg_sq": self.second[index],
            }

    def step(self, rows: list[int], gradient: Tensor, rates: list[float], decays: list[float]) -> None:
        """One update of some rows.

        Args:
            rows: Which.
            gradient: Clipped gradients, [len(rows), P].
            rates: Their learning rates.
            decays: Their decoupled weight decays.
        """
        for row in self._rows:
            row.grad = None
        for index, row_gradient, rate, decay in zip(rows, gradient, rates, decays, strict=True):
            self._rows[index].grad = row_gradient
            group = self._optimizer.param_groups[index]
            group["lr"], group["weight_decay"] = rate, decay
        self._optimizer.step()

    def reset(self, row: int) -> None:
        """Forget a row's moments and step count."""
        self.first[row].zero_()
        self.second[row].zero_()
        self.steps[row] = 0


def clip_rows(gradient: Tensor) -> Tensor:
    """Scale each row's gradient to a norm of at most `CLIP_NORM`, in place; gives the norms before, [n]."""
    norms = torch.linalg.vector_norm(gradient, dim=1)
    gradient.mul_((CLIP_NORM / norms.clamp_min(CLIP_NORM)).unsqueeze(1))
    return norms
