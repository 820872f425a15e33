"""Many full models in one program: `torch.func.vmap` over the unmodified module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, vmap

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
        self.dropout, self.addition = BlockDropout(model), Addition(model)

    def _forward(
        self,
        rows: dict[str, Tensor],
        inputs: Tensor,
        positions: int,
        masks: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """Logits [n, B, P, C] of n replicas, by parameter name."""

        def one(parameters: dict[str, Tensor], ids: Tensor, masks: Tensor | None, added: Tensor | None) -> Tensor:
            self.dropout.masks, self.addition.added = masks, added
            given = self.interface.batchable(ids, positions)
            return self.interface.logits(functional_call(self.model, parameters, kwargs=given))

        dims = (0, 0, *(None if other is None else 0 for other in (masks, added)))
        result: Tensor = vmap(one, in_dims=dims)(rows, inputs, masks, added)
        return result

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`."""
        # Each parameter is a leaf of its own: one flat leaf would get its gradient by a chain of padded sums.
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.unflatten(rows).items()}
        with torch.enable_grad():
            logits = self._forward(leaves, batch.inputs, batch.positions, batch.masks, batch.added)
            trained, reported = batch.losses(logits)
            pieces = torch.autograd.grad(batch.mean(trained).sum(), list(leaves.values()))
        return reported.detach().mean(-1), self.layout.join(pieces)

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`."""
        assert batch.added is not None
        added = batch.added.detach().requires_grad_()
        with torch.enable_grad():
            views = self.layout.unflatten(rows)
            trained, _ = batch.losses(self._forward(views, batch.inputs, batch.positions, batch.masks, added))
            return torch.autograd.grad(trained.sum(), added)[0]

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""
        return self._forward(self.layout.unflatten(rows), inputs, positions)
