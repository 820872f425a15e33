"""Virtual tokens: trained vectors that stand before every sequence while the model is frozen.

Prompt tuning trains their embeddings (Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning"),
prefix tuning their keys and values in every block (Li and Liang 2021, "Prefix-tuning"), without its reparametrisation.
They lie in a row behind the weights, and a row where all of them are zero has none. Both begin as tokens of the
vocabulary: as their embeddings, or as the keys and values that the model has for them. Masks and positions are PEFT's.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from llmo.engine.embedding import input_embedding
from llmo.engine.executors import Batch, Executor, Gradient
from llmo.engine.layout import Layout, padded
from llmo.engine.models import make_plain
from llmo.engine.pieces import Pieces
from llmo.engine.vmapped import Vmapped
from llmo.hyperparameters import VIRTUAL, VIRTUAL_TOKENS, Adapter
from llmo.kinds import key_values, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("llama", "gpt2")
"""Architectures whose keys and values are known to be taken as they are."""


def can_have_virtual_tokens(model: PreTrainedModel) -> bool:
    """Whether virtual tokens can stand before what a model reads."""
    return model.config.model_type in FAMILIES and kind_of(model) != "seq2seq"


class VirtualLayout(Layout):
    """The flat order of a model's parameters, with room for virtual tokens behind them.

    Args:
        model: Whose.

    Attributes:
        shapes_of: Shape of what each kind of virtual token trains: [K, width], and [K, 2 L, heads, width of a head],
            keys and values of a block by turns, as PEFT has them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        blocks, heads, width = key_values(model.config)
        self.shapes_of: dict[Adapter, tuple[int, ...]] = {
            "prompt": (VIRTUAL_TOKENS, model.config.hidden_size),
            "prefix": (VIRTUAL_TOKENS, 2 * blocks, heads, width),
        }
        self._virtual = self.width
        self._places: dict[Adapter, slice] = {}
        for kind, shape in self.shapes_of.items():
            size = torch.Size(shape).numel()
            self._places[kind] = slice(self.width, self.width + size)
            self.width += padded(size)

    @property
    def virtual(self) -> int:
        """See `Layout.virtual`."""
        return self._virtual

    def tokens(self, rows: Tensor, kind: Adapter) -> Tensor:
        """The virtual tokens of a kind in rows [n, P]: a view [n, *shape]."""
        return rows[:, self._places[kind]].unflatten(1, self.shapes_of[kind])

    def kinds(self, rows: Tensor) -> list[Adapter]:
        """What kind of virtual token each of some rows [n, P] has; `full` for none, and where they are not finite."""
        if not rows[:, self._virtual :].any():
            return ["full"] * len(rows)
        # A row that has diverged has NaN in all places.
        here = torch.where(rows[:, self._virtual :].isfinite().all(1, keepdim=True), rows, 0.0)
        has = torch.stack([here[:, place].any(1) for place in self._places.values()], 1).tolist()
        return [next((kind for kind, there in zip(self._places, row, strict=True) if there), "full") for row in has]

    def common(self, rows: Tensor) -> Adapter:
        """The kind of virtual token that rows [n, P] have, all the same one but for those that have diverged."""
        return next((kind for kind in self.kinds(rows) if kind != "full"), "full")


class _Prefix:
    """Keys and values [B, heads, K, width] that stand before each block's own, as a cache of earlier tokens would."""

    def __init__(self, prefix: Tensor, sequences: int) -> None:
        # [2 L, 1, heads, K, width]
        self._before = prefix.permute(1, 2, 0, 3)[:, None].expand(-1, sequences, -1, -1, -1)

    def update(self, keys: Tensor, values: Tensor, block: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What a block attends to."""
        before = self._before[2 * block], self._before[2 * block + 1]
        return torch.cat([before[0], keys], -2), torch.cat([before[1], values], -2)

    def get_seq_length(self, _block: int = 0) -> int:
        """How many tokens stand before."""
        return VIRTUAL_TOKENS


class Fronted(Vmapped):
    """n replicas with virtual tokens of one kind, which alone are trained.

    Args:
        model: The Hugging Face model; kept.
    """

    layout: VirtualLayout

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.layout = VirtualLayout(model)
        self._prompt: Tensor | None = None
        embedding = input_embedding(model)
        assert embedding is not None
        embedding.register_forward_hook(self._put_before)

    def _put_before(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if self._prompt is None:
            return output
        return torch.cat([self._prompt.expand(len(output), -1, -1), output[:, VIRTUAL_TOKENS:]], 1)

    def _views(self, rows: Tensor) -> dict[str, Tensor]:
        kind = self.layout.common(rows)
        return {**self.layout.unflatten(rows), kind: self.layout.tokens(rows, kind)}

    def _logits(self, parameters: dict[str, Tensor], ids: Tensor, positions: int) -> Tensor:
        weights = {name: view for name, view in parameters.items() if name not in VIRTUAL}
        # As many places more, of which the virtual tokens take the first.
        given = self.interface.batchable(pad(ids, (VIRTUAL_TOKENS, 0)), positions)
        self._prompt = parameters.get("prompt")
        if self._prompt is not None:
            # Nothing is dropped of them and nothing added to them.
            masks, added = self.dropout.masks, self.addition.added
            self.dropout.masks = None if masks is None else pad(masks, (0, 0, VIRTUAL_TOKENS, 0), value=1.0)
            self.addition.added = None if added is None else pad(added, (0, 0, VIRTUAL_TOKENS, 0))
        else:
            own = slice(VIRTUAL_TOKENS, None)
            mask, places = given["attention_mask"][..., own, :], given["position_ids"][:, own]
            given |= {"input_ids": given["input_ids"][:, own], "attention_mask": mask, "position_ids": places}
            given["past_key_values"] = _Prefix(parameters["prefix"], len(ids))
        return self.interface.logits(functional_call(self.model, weights, kwargs=given))[:, -positions:]

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`; that of the weights is zero."""
        views = self._views(rows)
        (kind,) = (name for name in VIRTUAL if name in views)
        leaf = views[kind] = views[kind].detach().requires_grad_()
        with torch.enable_grad():
            logits, *_ = self._forward(views, batch.inputs, batch.positions, batch.masks, batch.added)
            trained, reported = batch.losses(logits)
            (found,) = torch.autograd.grad(batch.mean(trained).sum(), leaf)
        gradient = torch.zeros_like(rows)
        self.layout.tokens(gradient, kind).copy_(found)
        return reported.detach().mean(-1), gradient

    @torch.no_grad()
    def begin(self, row: Tensor, kind: Adapter, seed: int) -> None:
        """Put virtual tokens into a row [P] of zeros behind its weights: random tokens of the vocabulary."""
        from transformers import DynamicCache

        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(self.model.config.vocab_size, (1, VIRTUAL_TOKENS), generator=generator).to(row.device)
        weights = self.layout.unflatten(row)
        self._prompt = self.dropout.masks = self.addition.added = None
        start = weights[self.layout.embedding][ids[0]]
        if kind == "prefix":
            cache: Any = DynamicCache()
            functional_call(self.model, weights, kwargs={"input_ids": ids, "past_key_values": cache, "use_cache": True})
            found = [part[0] for layer in cache.layers for part in (layer.keys, layer.values)]
            start = torch.stack(found).permute(2, 0, 1, 3)
        self.layout.tokens(row[None], kind)[0] = start


class VirtualTokens:
    """An executor whose rows may have virtual tokens; those that have go through a program of their own.

    Args:
        executor: Of the rows that have none.
        fronted: Of those that have.
    """

    def __init__(self, executor: Executor, fronted: Fronted) -> None:
        self._plain, self.fronted = executor, fronted
        self.layout, self.lanes = fronted.layout, executor.lanes
        inner: Executor | None = getattr(executor, "program", None)
        self.program: Executor = self if inner is None else VirtualTokens(inner, fronted)

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Gradient]:
        """See `Executor.gradient`; all rows have the same kind of virtual tokens, or none."""
        if self.layout.common(rows) != "full":
            return self.fronted.gradient(rows, batch)
        losses, gradient = self._plain.gradient(rows[:, : self.layout.virtual], batch)
        if isinstance(gradient, Pieces):
            return losses, Pieces(self.layout, gradient.pieces)
        return losses, pad(gradient, (0, self.layout.width - self.layout.virtual))

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`; all rows have the same kind of virtual tokens, or none."""
        if self.layout.common(rows) != "full":
            return self.fronted.input_gradient(rows, batch)
        return self._plain.input_gradient(rows[:, : self.layout.virtual], batch)

    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`; rows may differ."""
        kinds = self.layout.kinds(rows)
        found: dict[int, Tensor] = {}
        for kind in dict.fromkeys(kinds):
            places = [place for place, other in enumerate(kinds) if other == kind]
            here, ids = (rows, inputs) if len(places) == len(rows) else (rows[places], inputs[places])
            if kind == "full":
                logits = self._plain.logits(here[:, : self.layout.virtual], ids, positions)
            else:
                logits = self.fronted.logits(here, ids, positions)
            if len(places) == len(rows):
                return logits
            found |= dict(zip(places, logits, strict=True))
        return torch.stack([found[place] for place in range(len(rows))])


def with_virtual_tokens(executor: Executor, model: PreTrainedModel, device: torch.device) -> VirtualTokens:
    """An executor of rows that may have virtual tokens.

    Args:
        executor: Of the rows without.
        model: Their model; a copy is kept.
        device: Where rows lie.
    """
    own: Any = copy.deepcopy(model)
    make_plain(own)
    return VirtualTokens(executor, Fronted(own.to(device)))
