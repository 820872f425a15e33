"""Which parts of a model a row has: blocks, feed-forward units and attention heads can be absent from it.

A row keeps the layout of the whole model, with zeros where a part is absent. Such weights compute what the smaller
model computes, as an absent block, unit or head adds zero to the residual stream. What is trained is the smaller model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Parts = tuple[tuple[int, ...], ...]
"""Some units or heads of each block of the whole model, as many in each, in ascending order; empty for none."""


@dataclass(frozen=True)
class Structure:
    """What is absent from a model, by index in the whole one.

    Attributes:
        blocks: Blocks, in ascending order.
        units: Feed-forward units of each block.
        heads: Attention heads of each block: of keys and values, with the queries that share them.
    """

    blocks: tuple[int, ...] = ()
    units: Parts = ()
    heads: Parts = ()

    @property
    def removed(self) -> tuple[int, int, int]:
        """How many blocks, units of each block and heads of each block are absent."""
        return len(self.blocks), *(len(parts[0]) if parts else 0 for parts in (self.units, self.heads))  # type: ignore[return-value]

    @classmethod
    def loaded(cls, fields: dict[str, Any]) -> Structure:
        """The structure that was saved as JSON."""
        parts = {name: tuple(map(tuple, fields[name])) for name in ("units", "heads")}
        return cls(tuple(fields["blocks"]), **parts)


WHOLE_MODEL = Structure()
"""Nothing is absent."""
