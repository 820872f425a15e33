"""Executors of one model on several ranks.

A rank computes its share of a batch's sequences, and gradients are averaged: by DDP (Li et al. 2020) where every rank
holds the whole model, by FSDP2 where it holds a shard. What is measured is gathered, so that all ranks see the same
numbers and take the same decisions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llmo.engine.executors import Batch, Executor
from llmo.engine.lora import BatchedLora
from llmo.engine.ranks import Ranks
from llmo.engine.shards import Sharded
from llmo.engine.single import Accumulated, Single, prepare
from llmo.errors import LlmoError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Replicated(Single):
    """The whole model on every rank, in DDP.

    Args:
        model: The model.
        accumulation: Micro-batches of an optimizer step.
        ranks: The ranks.
    """

    _hooked = True

    def __init__(self, model: PreTrainedModel, accumulation: int, ranks: Ranks) -> None:
        # First, as it moves the parameters, which then become views of the rows.
        trained = ranks.replicate(model)
        super().__init__(model, accumulation)
        self._trained = trained

    def _unfinished(self) -> AbstractContextManager[None]:
        result: AbstractContextManager[None] = self._trained.no_sync()
        return result


class Distributed:
    """An executor whose ranks each compute a share of the sequences.

    Args:
        executor: What computes a share.
        ranks: The ranks.
        averages: Whether the executor itself averages its gradient over the ranks.
    """

    lanes: int | None = 1

    def __init__(self, executor: Executor, ranks: Ranks, averages: bool) -> None:
        self.executor, self.layout = executor, executor.layout
        self._ranks, self._averages = ranks, averages

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`; the batch is whole on every rank."""
        losses, gradient = self.executor.gradient(rows, batch.pieces(self._ranks.count)[self._ranks.index])
        whole = gradient[:]
        return self._ranks.gather(losses), whole if self._averages else self._ranks.mean(whole)

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`; no action asks for it here.

        Raises:
            LlmoError: Always.
        """
        raise LlmoError("perturbation of inputs", "on several ranks", "one process")

    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`; every rank computes all of them."""
        return self.executor.logits(rows, inputs, positions)


def distributed(model: PreTrainedModel, frozen: bool, ranks: Ranks) -> Distributed:
    """The executor of a model that several ranks train.

    Args:
        model: On the CPU, as a whole on every rank.
        frozen: Whether rows hold LoRA factors on it.
        ranks: The ranks.
    """
    accumulation = ranks.settings.accumulation
    prepare(model, ranks.settings, ranks.device)
    # mypy does not know `PreTrainedModel.to`.
    base: Any = model if ranks.sharded else model.to(ranks.device)  # type: ignore[arg-type]
    if frozen:
        lora = BatchedLora(base, lanes=1)
        if ranks.sharded:
            ranks.shard(base)
        return Distributed(Accumulated(lora, accumulation) if accumulation > 1 else lora, ranks, averages=False)
    kind = Sharded if ranks.sharded else Replicated
    return Distributed(kind(base, accumulation, ranks), ranks, averages=True)
