"""How a model's parameters, and its LoRA factors, lie in one flat row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

MAX_RANK = 8
"""Rank that the adapter row has room for; unused rows of A and columns of B are zero and stay so."""
ALIGNED = 16
"""Floats in a cache line; rows are padded with zeros to a multiple."""


@dataclass(frozen=True)
class Linear:
    """Where one linear layer's weight and its LoRA factors start, in the weight row and in the adapter row."""

    weight: int
    a: int
    b: int
    outputs: int
    inputs: int


class Layout:
    """The flat order of one model's trainable parameters; tied ones appear once.

    Args:
        model: Any module; only names and shapes are read.

    Attributes:
        size: Number of parameters.
        width: P, the length of a weight row: `size`, padded.
        adapter_width: Q, the length of an adapter row.
        linears: The layers an adapter attaches to: every `nn.Linear` but the output head.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        self.names = tuple(parameters)
        self.shapes = tuple(p.shape for p in parameters.values())
        self.sizes = tuple(p.numel() for p in parameters.values())
        self.size = sum(self.sizes)
        self.width = _padded(self.size)
        starts = dict(zip(self.names, accumulate((0, *self.sizes)), strict=False))
        head = getattr(model, "get_output_embeddings", lambda: None)()
        self.linears: list[Linear] = []
        position = 0
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear) or module is head:
                continue
            a, b = position, position + MAX_RANK * module.in_features
            position = b + MAX_RANK * module.out_features
            self.linears.append(Linear(starts[f"{name}.weight"], a, b, module.out_features, module.in_features))
        self.adapter_width = _padded(position)

    def flatten(self, model: nn.Module) -> Tensor:
        """A copy of the model's parameters in a row, [size]."""
        return torch.cat([p.detach().reshape(-1).float() for p in model.parameters()])

    def unflatten(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of rows [..., P] by parameter name, each [..., *shape]."""
        pieces = rows[..., : self.size].split(self.sizes, -1)
        return {
            name: piece.view(*piece.shape[:-1], *shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
