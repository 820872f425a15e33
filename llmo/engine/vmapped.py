"""Many full models in one program: `torch.func.vmap` over the unmodified module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from llmo.engine.dropout import BlockDropout
from llmo.engine.executors import Batch, causal_inputs
from llmo.engine.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Vmapped:
    """n replicas, each with weights of its own.

    Args:
        model: The Hugging Face model; kept as a real skeleton, since tied weights on the meta device go silently wrong.

    Attributes:
        identity: Equal identities compute the same function.
    """

    lanes: int | None = None

    def __init__(self, model: PreTrainedModel) -> None:
        self.identity: tuple[str, ...] = ("full", model.config.to_json_string())
        self.layout = Layout(model)
        self.model = model.train()
        self.dropout = BlockDropout(model)
        self._plain = vmap(lambda parameters, ids: self._forward(parameters, ids, None))
        self._dropped = vmap(self._forward)

    def _forward(self, parameters: dict[str, Tensor], ids: Tensor, masks: Tensor | None) -> Tensor:
        self.dropout.masks = masks
        result: Tensor = functional_call(self.model, parameters, kwargs=causal_inputs(ids)).logits
        return result

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`."""
        # Each parameter is a leaf of its own: one flat leaf would get its gradient by a chain of padded sums.
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.unflatten(rows).items()}
        with torch.enable_grad():
            if batch.masks is None:
                logits = self._plain(leaves, batch.inputs)
            else:
                logits = self._dropped(leaves, batch.inputs, batch.masks)
            trained, reported = batch.loss(logits, batch.labels, batch.teacher, batch.share)
            pieces = torch.autograd.grad(trained.mean((-2, -1)).sum(), list(leaves.values()))
        return reported.detach().mean(-1), self.layout.join(pieces)

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """See `Executor.logits`."""
        result: Tensor = self._plain(self.layout.unflatten(rows), inputs)
        return result
