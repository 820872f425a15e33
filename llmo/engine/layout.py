"""How a model's parameters, and its LoRA factors, lie in one flat row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from llmo.engine.dropout import blocks
from llmo.engine.embedding import input_embedding
from llmo.engine.vectors import WHOLE, Whole

MAX_RANK = 8
"""Rank that the adapter row has room for; unused rows of A and columns of B are zero and stay so."""
ALIGNED = 16
"""Floats in a cache line; rows are padded with zeros to a multiple."""


@dataclass(frozen=True)
class Linear:
    """Where one linear layer's weight and its LoRA factors start, in the weight row and in the adapter row.

    Attributes:
        name: Of the module.
        weight: First place of its weight in the weight row.
        a: First place of A, [R, inputs], in the adapter row.
        b: First place of B, [outputs, R], in the adapter row.
        outputs: Features out.
        inputs: Features in.
        transposed: Whether the weight is [inputs, outputs], as GPT-2's `Conv1D` keeps it.
        scale: First place of its scales in the adapter row: one for each output, each input or each place of the rank,
            whichever are most.
    """

    name: str
    weight: int
    a: int
    b: int
    outputs: int
    inputs: int
    transposed: bool
    scale: int

    def matrices(self, weights: Tensor) -> Tensor:
        """The layer's weight in rows [n, P]: a view [n, outputs, inputs]."""
        flat = weights[:, self.weight : self.weight + self.outputs * self.inputs]
        if self.transposed:
            return flat.view(-1, self.inputs, self.outputs).transpose(1, 2)
        return flat.view(-1, self.outputs, self.inputs)

    def factors(self, adapters: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's A [n, R, inputs] and B [n, outputs, R]: views of adapter rows [n, Q]."""
        a = adapters[:, self.a : self.b].view(-1, MAX_RANK, self.inputs)
        b = adapters[:, self.b : self.b + MAX_RANK * self.outputs].view(-1, self.outputs, MAX_RANK)
        return a, b

    def scales(self, adapters: Tensor, count: int) -> Tensor:
        """The layer's scales in adapter rows [n, Q]: a view [n, count], of its outputs, inputs or ranks."""
        return adapters[:, self.scale : self.scale + count]


class Layout:
    """The flat order of one model's trainable parameters; tied ones appear once.

    Args:
        model: Any module; only names and shapes are read.

    Attributes:
        starts: Where each parameter begins in a weight row; at last where they end.
        size: Number of parameters.
        width: P, the length of a weight row: `size`, padded.
        factor_width: How much of an adapter row LoRA factors take, padded.
        adapter_width: Q, the length of an adapter row: factors, then scales.
        embedding: Name of the input embedding's weight; empty where there is none.
        model_type: What transformers calls the model's architecture.
        begins: Where each block's parameters begin in a weight row, in the order of the blocks.
        linears: The layers an adapter attaches to: every linear one but the output head, as PEFT's ``all-linear``.
        factors: The same, as they lie in an adapter row.
        vectors: Norms and inner products of weight rows.
    """

    vectors: Whole = WHOLE

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        self.names = tuple(parameters)
        self.shapes = tuple(p.shape for p in parameters.values())
        self.sizes = tuple(p.numel() for p in parameters.values())
        self.size = sum(self.sizes)
        self.width = padded(self.size)
        self.starts = tuple(accumulate((0, *self.sizes)))
        starts = dict(zip(self.names, self.starts, strict=False))
        self.linears: list[Linear] = []
        linears = list(_linears(model))
        position = 0
        scale = self.factor_width = padded(sum(MAX_RANK * (outputs + inputs) for _, outputs, inputs, _ in linears))
        for name, outputs, inputs, transposed in linears:
            a, b = position, position + MAX_RANK * inputs
            position = b + MAX_RANK * outputs
            self.linears.append(Linear(name, starts[f"{name}.weight"], a, b, outputs, inputs, transposed, scale))
            scale += max(outputs, inputs, MAX_RANK)
        self.factors = self.linears
        self.adapter_width = padded(scale)
        self.embedding = _embedding(model)
        self.model_type = str(getattr(getattr(model, "config", None), "model_type", ""))
        modules = {id(module): name for name, module in model.named_modules()}
        firsts = [f"{modules[id(block)]}." for block in blocks(model)] if self.embedding else []
        self.begins = [min(starts[name] for name in self.names if name.startswith(first)) for first in firsts]

    @property
    def matrices(self) -> Tensor:
        """1 where a place of a row [P] belongs to a matrix, 0 where it belongs to a bias or a norm's gain."""
        marks = [
            torch.full((size,), float(len(shape) > 1)) for size, shape in zip(self.sizes, self.shapes, strict=True)
        ]
        return torch.cat([*marks, torch.zeros(self.width - self.size)])

    @property
    def virtual(self) -> int:
        """Where in a row virtual tokens begin; P where there is no room for any."""
        return self.width

    def own(self, weights: Tensor) -> Tensor:
        """What of whole weights [size] lies in a row of this process: all of them."""
        return weights

    def flatten(self, model: nn.Module) -> Tensor:
        """A copy of the model's parameters in a row, [size]."""
        return torch.cat([p.detach().reshape(-1).float() for p in model.parameters()])

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """Pieces [n, ...] in the order of a row, put together to rows [n, P]."""
        flat = [piece.reshape(len(piece), -1) for piece in pieces]
        padding = self.width - sum(piece.shape[1] for piece in flat)
        return torch.cat([*flat, flat[0].new_zeros(len(flat[0]), padding)], 1)

    def unflatten(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of rows [..., P] by parameter name, each [..., *shape]."""
        pieces = rows[..., : self.size].split(self.sizes, -1)
        return {
            name: piece.view(*piece.shape[:-1], *shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }


def padded(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // ALIGNED) * ALIGNED


def _embedding(model: nn.Module) -> str:
    """Name of the weight that tokens are embedded with."""
    weight = getattr(input_embedding(model), "weight", None)
    return next((name for name, parameter in model.named_parameters() if parameter is weight), "")


def _linears(model: nn.Module) -> Iterator[tuple[str, int, int, bool]]:
    """Name, outputs, inputs and whether it is transposed of each linear layer but the output head."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            yield name, module.nf, module.nx, True
        elif isinstance(module, nn.Linear) and module is not head:
            yield name, module.out_features, module.in_features, False


class FactorLayout(Layout):
    """The flat order where a base is frozen and shared: a row holds LoRA factors and nothing else.

    Args:
        model: The base.

    Attributes:
        base: The layout of the base's own weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self.base = Layout(model)
        self.factors = self.base.linears
        self.names, self.shapes, self.sizes = (), (), ()
        self.embedding, self.begins, self.starts = "", [], (0,)
        self.size = self.width = self.factor_width = self.base.factor_width
        self.linears, self.adapter_width = [], 0

    @property
    def matrices(self) -> Tensor:
        """See `Layout.matrices`: factors are."""
        return torch.ones(self.width)
