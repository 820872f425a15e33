"""Where the tensors of N replicas lie, so that a snapshot copies nothing.

Moments of a row share tensors: a snapshot, the best validation so far and the row itself refer to the same ones until
the row goes on training, which it then does on a copy. Every part of a block starts on a cache line, in each row alike:
kernels may round differently at another alignment, and a row must give the same bits wherever it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmo.engine.layout import ALIGNED, Layout
from llmo.engine.memory import check_replicas
from llmo.engine.optimizer import Moments


@dataclass(frozen=True)
class Tensors:
    """The tensors of a row at one moment; nobody writes to them any more.

    Attributes:
        full: Weights, their first and second moments, and the step count: one block [3 P + 16].
        lora: The same of LoRA factors, [3 Q + 16]; None without an adapter of its own.
        averaged: Running average of the effective weights, [P].
        best_full: `full` at the best validation.
        best_lora: `lora` at the best validation.
    """

    full: Tensor
    lora: Tensor | None
    averaged: Tensor
    best_full: Tensor
    best_lora: Tensor | None


class Row:
    """The tensors of one replica. What is read may be shared; what is written is the row's own.

    Args:
        layout: The flat order of weights and factors.
        device: Where they lie.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._widths = layout.width, layout.adapter_width
        full, averaged = (torch.zeros(size, device=device) for size in (_size(layout.width), layout.width))
        self._now = Tensors(full, None, averaged, full, None)
        # Names of the tensors that no other moment has been given.
        self._owned: set[str] = set()
        # A block that nothing refers to any more: new memory costs more than what is copied into it.
        self._spare: Tensor | None = None

    def start(self, weights: Tensor) -> None:
        """Forget everything and take starting weights [size], the best and the average until something better comes."""
        full = torch.zeros_like(self._now.full)
        full[: len(weights)] = weights
        averaged = full[: self._widths[0]]
        self.take(Tensors(full, None, averaged, full, None))

    def share(self) -> Tensors:
        """This moment, which stays as it is when the row goes on."""
        self._owned.clear()
        return self._now

    def take(self, moment: Tensors) -> None:
        """Become another moment, of this row or of another."""
        self._owned.clear()
        self._now = moment

    @property
    def full(self) -> Moments:
        """Weights and their moments, [1, P]; to be read only."""
        return _moments(self._now.full, self._widths[0])

    @property
    def lora(self) -> Moments | None:
        """LoRA factors and their moments, [1, Q], to be read only; None without an adapter of its own."""
        return None if self._now.lora is None else _moments(self._now.lora, self._widths[1])

    @property
    def weights(self) -> Tensor:
        """[P]."""
        return self._now.full[: self._widths[0]]

    @property
    def factors(self) -> Tensor | None:
        """LoRA factors [Q]; None without an adapter of its own."""
        return None if self._now.lora is None else self._now.lora[: self._widths[1]]

    @property
    def best_weights(self) -> Tensor:
        """Weights at the best validation, [P]."""
        return self._now.best_full[: self._widths[0]]

    @property
    def best_factors(self) -> Tensor | None:
        """LoRA factors at the best validation, [Q]; None without an adapter then."""
        return None if self._now.best_lora is None else self._now.best_lora[: self._widths[1]]

    @property
    def averaged(self) -> Tensor:
        """Running average of the effective weights, [P]."""
        return self._now.averaged

    # To write to

    def own_full(self) -> Moments:
        """Weights and their moments, [1, P]."""
        return _moments(self._own("full"), self._widths[0])

    def own_lora(self) -> Moments:
        """LoRA factors and their moments, [1, Q]; zero at first."""
        if self._now.lora is None:
            self._set("lora", self._now.full.new_zeros(_size(self._widths[1])))
        return _moments(self._own("lora"), self._widths[1])

    def own_average(self) -> Tensor:
        """Running average of the effective weights, [1, P]."""
        return self._own("averaged")[None]

    # What can happen to it

    def write(self, full: Moments | None, lora: Moments | None, averaged: Tensor, place: int) -> None:
        """Overwrite what has been trained elsewhere, in one of several places."""
        for name, source in (("full", full), ("lora", lora)):
            if source is not None:
                block = getattr(self._now, name)
                if not self._alone(name):
                    block = self._room(block)
                    block[-ALIGNED:] = 0
                _moments(block, source.values.shape[1]).copy_row(0, source, place)
                self._set(name, block)
        if not self._alone("averaged"):
            self._set("averaged", torch.empty_like(averaged[place]))
        self._now.averaged.copy_(averaged[place])

    def drop_adapter(self) -> None:
        """Forget the LoRA factors and their moments."""
        self._set("lora", None)

    def keep_best(self) -> None:
        """This is the best so far."""
        now, owned = self._now, self._owned
        if "best_full" in owned and now.best_full is not now.full:
            self._spare = now.best_full
        self._now = Tensors(now.full, now.lora, now.averaged, now.full, now.lora)
        self._owned = owned & {"full", "lora", "averaged"} | {f"best_{name}" for name in owned & {"full", "lora"}}

    def load_best(self) -> None:
        """Go back to weights, factors and moments of the best so far."""
        now = self.share()
        self._now = Tensors(now.best_full, now.best_lora, now.averaged, now.best_full, now.best_lora)

    def _alone(self, name: str) -> bool:
        """Whether nothing else refers to a tensor."""
        best = getattr(self._now, f"best_{name}", None)
        return name in self._owned and best is not getattr(self._now, name)

    def _own(self, name: str) -> Tensor:
        result: Tensor = getattr(self._now, name)
        if not self._alone(name):
            result = self._room(result).copy_(result)
            self._set(name, result)
        return result

    def _room(self, like: Tensor) -> Tensor:
        """Memory for a tensor of the same shape."""
        spare = self._spare
        if spare is None or spare.shape != like.shape:
            return torch.empty_like(like)
        self._spare = None
        return spare

    def _set(self, name: str, value: Tensor | None) -> None:
        self._now = Tensors(**{**vars(self._now), name: value})
        self._owned.add(name)


def _size(width: int) -> int:
    return 3 * width + ALIGNED


def _moments(block: Tensor, width: int) -> Moments:
    values, first, second, steps = block[None].split((width, width, width, ALIGNED), 1)
    return Moments(values, first, second, steps[:, 0])


def make_rows(replicas: int, layout: Layout, device: torch.device) -> list[Row]:
    """Rows of N replicas.

    Raises:
        LlmoError: Memory does not hold them, each with its best so far.
    """
    each = 2 * (_size(layout.width) + _size(layout.adapter_width)) + layout.width
    check_replicas(replicas, 4 * each, device)
    return [Row(layout, device) for _ in range(replicas)]
