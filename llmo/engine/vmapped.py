"""Many full models in one program: `torch.func.vmap` over the unmodified module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from llmo.engine.auxiliary import LastHidden, read_logits
from llmo.engine.dropout import BlockDropout
from llmo.engine.embedding import Addition
from llmo.engine.executors import Batch
from llmo.engine.layout import Layout
from llmo.errors import LlmoError
from llmo.kinds import Interface, kind_of, sees_ahead

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Vmapped:
    """n replicas, each with weights of its own.

    Args:
        model: The Hugging Face model; kept as a real skeleton, since tied weights on the meta device go silently wrong.

    Attributes:
        identity: Equal identities compute the same function.

    Raises:
        LlmoError: The model sees what follows a token, which its masks here would hide.
    """

    lanes: int | None = None

    def __init__(self, model: PreTrainedModel) -> None:
        kind = kind_of(model)
        if sees_ahead(model.config):
            raise LlmoError(
                f"model of many replicas with weights of their own ({type(model).__name__})",
                model.config.model_type,
                "a decoder, an encoder with a decoder, or LoRA factors alone",
            )
        self.identity: tuple[str, ...] = ("full", kind, model.config.to_json_string())
        self.interface = Interface(model.config, kind)
        self.layout = Layout(model)
        self.model = model.train()
        self.dropout, self.addition, self.hidden = BlockDropout(model), Addition(model), LastHidden(model)

    def _forward(
        self,
        rows: dict[str, Tensor],
        inputs: Tensor,
        positions: int,
        masks: Tensor | None = None,
        added: Tensor | None = None,
        hidden: bool = False,
    ) -> tuple[Tensor, ...]:
        """Logits [n, B, P, C] of n replicas, by parameter name; and their last hidden states [n, B, T, width]."""
        self.hidden.wanted = hidden

        def one(
            parameters: dict[str, Tensor], ids: Tensor, masks: Tensor | None, added: Tensor | None
        ) -> tuple[Tensor, ...]:
            self.dropout.masks, self.addition.added = masks, added
            logits = self._logits(parameters, ids, positions)
            return logits, *self.hidden.taken()

        dims = (0, 0, *(None if other is None else 0 for other in (masks, added)))
        result: tuple[Tensor, ...] = vmap(one, in_dims=dims)(rows, inputs, masks, added)
        return result

    def _logits(self, parameters: dict[str, Tensor], ids: Tensor, positions: int) -> Tensor:
        """Logits [B, P, C] of one replica."""
        given = self.interface.batchable(ids, positions)
        return self.interface.logits(functional_call(self.model, parameters, kwargs=given))

    def _views(self, rows: Tensor) -> dict[str, Tensor]:
        """What replicas [n, P] are, by name."""
        return self.layout.unflatten(rows)

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`."""
        # Each parameter is a leaf of its own: one flat leaf would get its gradient by a chain of padded sums.
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.unflatten(rows).items()}
        with torch.enable_grad():
            asked = batch.read is not None and self.interface.kind != "causal_lm"
            logits, *hidden = self._forward(leaves, batch.inputs, batch.positions, batch.masks, batch.added, asked)
            trained, reported = batch.losses(logits)
            loss = batch.mean(trained)
            if batch.read is not None:
                predicted = read_logits(hidden[0], leaves[self.layout.embedding]) if hidden else logits[:, :, :-1]
                loss = batch.with_auxiliary(loss, predicted)
            pieces = torch.autograd.grad(loss.sum(), list(leaves.values()))
        return reported.detach().mean(-1), self.layout.join(pieces)

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`."""
        assert batch.added is not None
        added = batch.added.detach().requires_grad_()
        with torch.enable_grad():
            views = self._views(rows)
            trained, _ = batch.losses(self._forward(views, batch.inputs, batch.positions, batch.masks, added)[0])
            return torch.autograd.grad(trained.sum(), added)[0]

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""
        return self._forward(self._views(rows), inputs, positions)[0]
