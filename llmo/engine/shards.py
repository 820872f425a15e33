"""One model whose parameters are shared out over ranks by FSDP2, with rows that hold a rank's shards.

Zhao et al. 2023, "PyTorch FSDP". Each parameter is cut along its first axis; a block's parameters are put together
just before the block runs. The optimizer, snapshots and averages work on the shards as they are; only norms and inner
products need sums over the ranks. LoRA factors are small, and whole on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmo.engine.executors import Batch
from llmo.engine.layout import ALIGNED, Layout, Linear
from llmo.engine.ranks import Ranks
from llmo.engine.single import Single
from llmo.engine.vectors import Whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Split(Whole):
    """Of vectors that lie in shards on the ranks.

    Args:
        ranks: The ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def total(self, part: Tensor) -> Tensor:
        """See `Whole.total`."""
        return self._ranks.total(part)

    def norm(self, a: Tensor) -> Tensor:
        """See `Whole.norm`."""
        return self.total(torch.linalg.vector_norm(a).square()).sqrt()

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Whole.dot`."""
        return self.total(torch.dot(a, b))


@dataclass(frozen=True)
class LinearShard(Linear):
    """A linear layer's shard; its sizes and its place in the weight row are the shard's.

    Attributes:
        whole: The layer.
        first: Which index along the weight's first axis the shard begins with.
    """

    whole: Linear
    first: int

    def factors(self, adapters: Tensor) -> tuple[Tensor, Tensor]:
        """What the shard needs of the layer's factors: A [n, R, inputs] and B [n, outputs, R], views of whole rows."""
        a, b = self.whole.factors(adapters)
        if self.transposed:
            return a[:, :, self.first : self.first + self.inputs], b
        return a, b[:, self.first : self.first + self.outputs]


class ShardLayout(Layout):
    """The flat order of a rank's shards.

    Args:
        model: The model, already shared out.
        ranks: The ranks.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model)
        self.vectors = Split(ranks)
        self._parameters: dict[str, Any] = dict(model.named_parameters())
        self._whole = dict(zip(self.names, zip(self.shapes, self.sizes)))
        # As `torch.chunk` cuts: the last ranks may have less, or nothing.
        self._first = {name: -(-shape[0] // ranks.count) * ranks.index for name, (shape, _) in self._whole.items()}
        with torch.no_grad():
            self.shapes = tuple(parameter.to_local().shape for parameter in self._parameters.values())
        self.sizes = tuple(shape.numel() for shape in self.shapes)
        self.size = sum(self.sizes)
        self.width = -(-self.size // ALIGNED) * ALIGNED
        starts = dict(zip(self.names, accumulate((0, *self.sizes)), strict=False))
        lengths = {name: shape[0] for name, shape in zip(self.names, self.shapes)}
        self.linears = [
            LinearShard(
                linear.name,
                starts[weight],
                linear.a,
                linear.b,
                linear.outputs if linear.transposed else lengths[weight],
                lengths[weight] if linear.transposed else linear.inputs,
                linear.transposed,
                linear.scale,
                linear,
                self._first[weight],
            )
            for linear, weight in ((linear, f"{linear.name}.weight") for linear in self.factors)
            if lengths[weight]
        ]

    def own(self, weights: Tensor) -> Tensor:
        """See `Layout.own`."""
        pieces = weights.split([size for _, size in self._whole.values()])
        shards = []
        for (name, (shape, _)), piece, own in zip(self._whole.items(), pieces, self.shapes):
            first = self._first[name]
            shards.append(piece.view(shape)[first : first + own[0]].reshape(-1))
        return torch.cat(shards)

    def whole(self, row: Tensor) -> Tensor:
        """The whole weights [size of the model], from every rank's row [P]; all ranks call it together."""
        from torch.distributed.tensor import DTensor

        pieces = []
        for name, view in self.unflatten(row).items():
            parameter = self._parameters[name]
            mesh, placements = parameter.device_mesh, parameter.placements
            shard = DTensor.from_local(view, mesh, placements, shape=parameter.shape, stride=parameter.stride())
            pieces.append(shard.full_tensor().reshape(-1))
        return torch.cat(pieces)


class Sharded(Single):
    """One model in shards; rows and gradients hold this rank's.

    Args:
        model: The model; it is shared out in place.
        accumulation: Micro-batches of an optimizer step.
        ranks: The ranks.
    """

    _hooked = True

    def __init__(self, model: PreTrainedModel, accumulation: int, ranks: Ranks) -> None:
        self._ranks = ranks
        super().__init__(ranks.shard(model), accumulation)

    def _layout(self, model: nn.Module) -> Layout:
        return ShardLayout(model, self._ranks)

    def _bind_gradient(self, views: dict[str, Tensor]) -> None:
        self._views, self._shards = views, dict[str, Any](self.model.named_parameters())

    @torch.no_grad()
    def _bind(self, row: Tensor) -> None:
        from torch.distributed.fsdp import FSDPModule

        # What was put together for a pass without a backward pass would be taken for up to date.
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for name, view in self.layout.unflatten(row).items():
            self._shards[name].to_local().copy_(view)

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`; the gradient is averaged over the ranks, and this rank's shard of it."""
        losses, _ = super().gradient(rows, batch)
        for name, parameter in self._shards.items():
            self._views[name].copy_(parameter.grad.to_local())
            parameter.grad = None
        return losses, self._gradient
