"""Where the tensors of N replicas lie: one buffer [N, S], so that a snapshot is one copy.

A row holds the live part (weights, LoRA factors, the moments of both and their step counts), the live part at the best
validation, and the averaged weights. Every section starts on a cache line, in each row alike: kernels may round
differently at another alignment, and a row must give the same bits wherever it lies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.engine.layout import ALIGNED, Layout
from llmo.engine.memory import check_replicas
from llmo.engine.optimizer import Moments


class Rows:
    """The tensors of N replicas.

    Args:
        replicas: N.
        layout: The flat order of weights and factors.
        device: Where they lie.

    Attributes:
        buffer: Everything, [N, S].
        live: What training changes and rolling back restores, [N, L].
        best: `live` at the best validation, [N, L].
        full: Weights [N, P] and their moments.
        lora: LoRA factors [N, Q] and their moments; zero without an adapter.
        averaged: Running average of the effective weights, [N, P].
        best_weights: [N, P].
        best_factors: [N, Q].

    Raises:
        LlmoError: Memory does not hold them.
    """

    def __init__(self, replicas: int, layout: Layout, device: torch.device) -> None:
        p, q = layout.width, layout.adapter_width
        widths = (p, p, p, ALIGNED, q, q, q, ALIGNED)
        size = sum(widths)
        check_replicas(replicas, 4 * (2 * size + p), device)
        self.buffer = torch.zeros(replicas, 2 * size + p, device=device)
        self.live, self.best, self.averaged = self.buffer.split((size, size, p), 1)
        weights, first, second, steps, *lora = self.live.split(widths, 1)
        self.full = Moments(weights, first, second, steps[:, 0])
        self.lora = Moments(lora[0], lora[1], lora[2], lora[3][:, 0])
        self.best_weights, _, _, _, self.best_factors, *_ = self.best.split(widths, 1)

    def start(self, row: int, weights: Tensor) -> None:
        """Forget a row and give it starting weights [size], its best and its average until something better comes."""
        self.buffer[row] = 0
        for target in (self.full.values, self.best_weights, self.averaged):
            target[row, : len(weights)] = weights
