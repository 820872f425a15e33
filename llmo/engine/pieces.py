"""One row's gradient as autograd leaves it: copying a large one into a flat row would cost as much as an update."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from llmo.engine.layout import Layout


@dataclass(frozen=True)
class Pieces:
    """A gradient [1, P] in pieces; indexed like the flat one, which is then put together.

    Attributes:
        layout: Of a row.
        pieces: A tensor for each parameter.
    """

    layout: Layout
    pieces: list[Tensor]

    @cached_property
    def flat(self) -> Tensor:
        """[1, P]."""
        return self.layout.join([piece[None] for piece in self.pieces])

    def __getitem__(self, key: Any) -> Tensor:
        return self.flat[key]

    def views(self, row: Tensor) -> list[Tensor]:
        """What lies where the pieces belong in a flat row [P]."""
        return list(self.layout.unflatten(row).values())
