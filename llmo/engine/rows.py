"""Where the tensors of N replicas lie, so that a snapshot copies nothing.

Moments of a row share tensors: a snapshot, the best validation so far and the row itself refer to the same ones until
the row goes on training, which it then does on a copy. Every part of a block starts on a cache line, in each row alike:
kernels may round differently at another alignment, and a row must give the same bits wherever it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
        kept: Other tensors by name: moments that were saved, the anchor, the mean of weights.
    """

    full: Tensor
    lora: Tensor | None
    averaged: Tensor
    best_full: Tensor
    best_lora: Tensor | None
    kept: Mapping[str, Tensor] = field(default_factory=dict)


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

    def kept(self, name: str) -> Tensor | None:
        """A tensor that is kept under a name; to be read only."""
        return self._now.kept.get(name)

    def hold(self, name: str, tensor: Tensor | None) -> None:
        """Keep a tensor under a name, which nobody writes to any more; None forgets what was kept."""
        kept = {other: held for other, held in self._now.kept.items() if other != name}
        self._change(kept=kept if tensor is None else {**kept, name: tensor})

    def save(self, name: str) -> None:
        """Keep weights, factors and moments as they are now."""
        self.hold(f"{name}.full", self._now.full)
        self.hold(f"{name}.lora", self._now.lora)

    def holds(self, name: str) -> bool:
        """Whether just these weights, factors and moments are saved under a name."""
        return self.kept(f"{name}.full") is self._now.full and self.kept(f"{name}.lora") is self._now.lora

    def rename(self, name: str, new: str) -> None:
        """Give what was saved another name, instead of what had it."""
        for part in ("full", "lora"):
            self.hold(f"{new}.{part}", self.kept(f"{name}.{part}"))
            self.hold(f"{name}.{part}", None)

    def load(self, name: str) -> None:
        """Go back to what was saved."""
        self._change(full=self._now.kept[f"{name}.full"], lora=self.kept(f"{name}.lora"))
        self._owned -= {"full", "lora"}

    def saved(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weights [P] and factors [Q] that were saved, or that the best validation had (`best`)."""
        if name == "best":
            return self.best_weights, self.best_factors
        lora = self.kept(f"{name}.lora")
        weights, factors = self._widths
        return self._now.kept[f"{name}.full"][:weights], None if lora is None else lora[:factors]

    def anchor(self) -> None:
        """Keep weights and moments as they are now, to be held near to."""
        self.hold("anchor", self._now.full)

    @property
    def is_anchor(self) -> bool:
        """Whether just these weights and moments are the anchor."""
        return self.kept("anchor") is self._now.full

    @property
    def on_best(self) -> bool:
        """Whether the weights, an adapter not counted, are those of the best validation."""
        return self._now.full is self._now.best_full

    @property
    def anchored(self) -> Moments | None:
        """What is held near to, [1, P]; None where nothing is."""
        held = self.kept("anchor")
        return None if held is None else _moments(held, self._widths[0])

    def drop_adapter(self) -> None:
        """Forget the LoRA factors and their moments."""
        self._set("lora", None)

    def keep_best(self) -> None:
        """This is the best so far."""
        now, owned = self._now, self._owned
        if "best_full" in owned and now.best_full is not now.full and not self._is_kept(now.best_full):
            self._spare = now.best_full
        self._change(best_full=now.full, best_lora=now.lora)
        self._owned = owned & {"full", "lora", "averaged"} | {f"best_{name}" for name in owned & {"full", "lora"}}

    def keep_others(self, names: Sequence[str]) -> None:
        """What was saved under some names belongs to the best so far, as `best.0` and so on; nothing else does."""
        kept = {name: held for name, held in self._now.kept.items() if not name.startswith("best.")}
        for place, name in enumerate(names):
            parts = {f"best.{place}.{part}": self.kept(f"{name}.{part}") for part in ("full", "lora")}
            kept |= {name: held for name, held in parts.items() if held is not None}
        self._change(kept=kept)

    def load_best(self) -> None:
        """Go back to weights, factors and moments of the best so far."""
        now = self.share()
        self._change(full=now.best_full, lora=now.best_lora)

    def _alone(self, name: str) -> bool:
        """Whether nothing else refers to a tensor."""
        here, best = getattr(self._now, name), getattr(self._now, f"best_{name}", None)
        return name in self._owned and best is not here and not self._is_kept(here)

    def _is_kept(self, tensor: Tensor | None) -> bool:
        return any(held is tensor for held in self._now.kept.values())

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
        self._change(**{name: value})
        self._owned.add(name)

    def _change(self, **tensors: Any) -> None:
        self._now = replace(self._now, **tensors)


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
