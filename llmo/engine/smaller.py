"""Rows of whole models through the smaller model that their structures leave: what is absent is not computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmo.engine.executors import Batch, Executor
from llmo.engine.memory import Passes
from llmo.engine.models import make_plain
from llmo.engine.structure import Structure
from llmo.engine.structures import Structures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Smaller:
    """Passes of n rows, whose structures leave models of one size.

    Attributes:
        executor: Of the smaller model.
        passes: Its training passes.
        places: Where its parameters lie in each row, [n, parameters].
        blocks: Which blocks of the whole model it has, in each row, [n, L'].
    """

    executor: Executor
    passes: Passes
    places: Tensor
    blocks: Tensor

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`: zero where a part is absent."""
        if batch.masks is not None:
            chosen = [masks[blocks] for masks, blocks in zip(batch.masks, self.blocks, strict=True)]
            batch = replace(batch, masks=torch.stack(chosen))
        losses, gradient = self.passes.gradient(self._gathered(rows), batch)
        return losses, torch.zeros_like(rows).scatter_(1, self.places, gradient[:][:, : self.places.shape[1]])

    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""
        return self.executor.logits(self._gathered(rows), inputs, positions)

    def _gathered(self, rows: Tensor) -> Tensor:
        small = rows.new_zeros(len(rows), self.executor.layout.width)
        small[:, : self.places.shape[1]] = rows.gather(1, self.places)
        return small


class SmallerModels:
    """Executors of smaller models, made when they are first needed and kept by their size.

    Args:
        structures: Of the whole model.
        make: Gives the executor of a model.
        device: Where rows lie.
    """

    def __init__(
        self, structures: Structures, make: Callable[[PreTrainedModel], Executor], device: torch.device
    ) -> None:
        self._structures, self._make, self._device = structures, make, device
        self._made: dict[tuple[int, int, int], tuple[Executor, Passes]] = {}

    def parts(self, structure: Structure) -> tuple[Tensor, Tensor]:
        """Where the smaller model's parameters lie in a row, and which blocks of the whole model it has, [L']."""
        blocks = [block for block in range(self._structures.blocks) if block not in structure.blocks]
        return self._structures.places(structure).to(self._device), torch.tensor(blocks, device=self._device)

    def __call__(self, structure: Structure, parts: Sequence[tuple[Tensor, Tensor]]) -> Smaller:
        """What runs rows through the model of one size.

        Args:
            structure: Any of theirs.
            parts: Of each row, see `parts`.
        """
        size = structure.removed
        if size not in self._made:
            model = self._structures.build(structure)
            make_plain(model)
            executor = self._make(model)
            self._made[size] = executor, Passes(executor)
        places, blocks = (torch.stack(several) for several in zip(*parts, strict=True))
        return Smaller(*self._made[size], places, blocks)
