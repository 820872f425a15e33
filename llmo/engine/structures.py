"""Where the parts of a model lie in its flat row, and the smaller models that some of them make up."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmo.engine.dropout import blocks
from llmo.engine.layout import Layout
from llmo.engine.structure import Structure
from llmo.engine.virtual import VirtualLayout
from llmo.kinds import auto_class, kind_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """How an architecture names its parts.

    Attributes:
        fields: Names in the configuration of the number of blocks, of units, and of heads: of all that count them.
        units: Parameters of a block that units share out evenly, and along which dimension.
        heads: The same of heads; empty where the configuration cannot say that some are absent.
        outputs: Parameters of a block through which attention and feed-forward layer add to the residual stream.
    """

    fields: tuple[str, str, tuple[str, ...]]
    units: Mapping[str, int]
    heads: Mapping[str, int]
    outputs: tuple[str, ...]


FAMILIES = {
    "llama": Family(
        ("num_hidden_layers", "intermediate_size", ("num_key_value_heads", "num_attention_heads")),
        {
            "mlp.gate_proj.weight": 0, "mlp.gate_proj.bias": 0, "mlp.up_proj.weight": 0, "mlp.up_proj.bias": 0,
            "mlp.down_proj.weight": 1,
        },
        {
            "self_attn.q_proj.weight": 0, "self_attn.q_proj.bias": 0, "self_attn.k_proj.weight": 0,
            "self_attn.k_proj.bias": 0, "self_attn.v_proj.weight": 0, "self_attn.v_proj.bias": 0,
            "self_attn.o_proj.weight": 1,
        },
        ("self_attn.o_proj.weight", "self_attn.o_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias"),
    ),
    "gpt2": Family(
        ("n_layer", "n_inner", ("n_head",)),
        {"mlp.c_fc.weight": 1, "mlp.c_fc.bias": 0, "mlp.c_proj.weight": 0},
        # Its heads are always as many as make up the width.
        {},
        ("attn.c_proj.weight", "attn.c_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
    ),
}  # fmt: skip
"""Architectures whose parts are known here, by what transformers calls them."""


class Structures:
    """The structures of one model.

    Args:
        model: The whole one; only names, shapes and the configuration are read.
        layout: Of its row.

    Attributes:
        family: How its parts are named; None where nothing can be absent.
        blocks: L, its blocks.
        units: Feed-forward units of each block; 0 where they are not known.
        heads: Heads of keys and values in each block; 0 where some cannot be absent.
    """

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self._config, self._kind, self._layout = model.config, kind_of(model), layout
        # Only a row of whole weights has the names of the model's parameters.
        family = FAMILIES.get(model.config.model_type) if type(layout) in (Layout, VirtualLayout) else None
        self.family = None if getattr(model.config, "scale_attn_by_inverse_layer_idx", False) else family
        names = {id(module): name for name, module in model.named_modules()}
        self._prefixes = [f"{names[id(block)]}." for block in blocks(model)]
        self.blocks, self.units, self.heads = len(self._prefixes), 0, 0
        if self.family is not None:
            name, dim = next(iter(self.family.units.items()))
            self.units = layout.shapes[layout.names.index(self.name(0, name))][dim]
            self.heads = getattr(model.config, self.family.fields[2][0]) if self.family.heads else 0

    def name(self, block: int, part: str) -> str:
        """Name of a block's parameter."""
        return self._prefixes[block] + part

    def config(self, structure: Structure) -> PretrainedConfig:
        """The configuration of the smaller model."""
        if not any(structure.removed) or self.family is None:
            return self._config
        result = copy.deepcopy(self._config)
        fewer, units, heads = structure.removed
        depth, inner, counted = self.family.fields
        setattr(result, depth, self.blocks - fewer)
        setattr(result, inner, self.units - units)
        if heads:
            for name in counted:
                whole = getattr(result, name)
                setattr(result, name, whole - whole // self.heads * heads)
        return result

    def fewer_heads(self, heads: int) -> int:
        """The most heads of keys and values, fewer than so many, that transformers allows; 0 for none."""
        if not self.heads:
            return 0
        queries = self._config.num_attention_heads // self.heads
        return max((n for n in range(1, heads) if self._config.hidden_size % (n * queries) == 0), default=0)

    def build(self, structure: Structure) -> PreTrainedModel:
        """A model of the smaller size, with any weights, in float32."""
        with torch.random.fork_rng(devices=[]):
            model: Any = auto_class(self._kind).from_config(
                self.config(structure), attn_implementation="eager", trust_remote_code=False
            )
        return model.float()

    def places(self, structure: Structure) -> Tensor:
        """Where in a row [P] the smaller model's parameters lie, in its own order: [its parameters]."""
        return torch.cat(
            [
                self._part(index, self._owners.get(name), structure).flatten()
                for index, name in enumerate(self._layout.names)
                if self._owners.get(name) not in structure.blocks
            ]
        )

    def starts(self, structure: Structure) -> list[int]:
        """Where in a row each of the smaller model's parameters begins, in its own order."""
        pairs = zip(self._layout.names, self._layout.starts, strict=False)
        return [start for name, start in pairs if self._owners.get(name) not in structure.blocks]

    def present(self, structure: Structure) -> Tensor:
        """Which places of a row are there, bool [P]."""
        result = torch.zeros(self._layout.width, dtype=torch.bool)
        result[self.places(structure)] = True
        return result

    def block_parts(self, block: int, structure: Structure) -> dict[str, Tensor]:
        """Where in a row a block's parameters lie, by their names in it; as if the block were there."""
        first = self._prefixes[block]
        return {
            name.removeprefix(first): self._part(index, block, structure)
            for index, name in enumerate(self._layout.names)
            if self._owners.get(name) == block
        }

    @cached_property
    def _owners(self) -> dict[str, int]:
        """Which block each parameter belongs to that belongs to one."""
        prefixes = list(enumerate(self._prefixes))
        return {name: block for name in self._layout.names for block, first in prefixes if name.startswith(first)}

    def _part(self, index: int, block: int | None, structure: Structure) -> Tensor:
        """Places of what is there of one parameter, in its shape."""
        layout = self._layout
        places = torch.arange(layout.sizes[index]).view(layout.shapes[index]) + layout.starts[index]
        if block is None or self.family is None:
            return places
        part = layout.names[index].removeprefix(self._prefixes[block])
        for dims, absent, count in (
            (self.family.units, structure.units, self.units),
            (self.family.heads, structure.heads, self.heads),
        ):
            if absent and part in dims:
                places = _without(places, dims[part], absent[block], count)
        return places


def _without(places: Tensor, dim: int, absent: Sequence[int], count: int) -> Tensor:
    """Places without some of the equal shares that a dimension is divided into."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[list(absent)] = False
    each = places.shape[dim] // count
    return places.index_select(dim, torch.nonzero(kept.repeat_interleave(each)).flatten())
