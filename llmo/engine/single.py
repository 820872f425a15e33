"""Replicas one after another through the plain module: for one run, and where a single step fills the machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmo.engine.dropout import BlockDropout
from llmo.engine.executors import Batch, causal_inputs
from llmo.engine.layout import Layout


class Single:
    """No vmap: parameters and gradients are views of flat rows.

    Args:
        model: The Hugging Face model; its parameters are rebound to the rows it is given.
    """

    lanes: int | None = 1

    def __init__(self, model: nn.Module) -> None:
        self.layout = Layout(model)
        self.model = model.train()
        self.dropout = BlockDropout(model)
        self._bound = 0
        self._gradient = torch.zeros(1, self.layout.width, device=next(model.parameters()).device)
        views = self.layout.unflatten(self._gradient[0])
        for name, parameter in model.named_parameters():
            parameter.grad = views[name]

    def _bind(self, row: Tensor) -> None:
        # The parameters keep the row alive, so that no other row can come to lie where it does.
        if row.data_ptr() != self._bound:
            views = self.layout.unflatten(row)
            for name, parameter in self.model.named_parameters():
                parameter.data = views[name]
            self._bound = row.data_ptr()

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`; n is 1."""
        (row,) = rows
        self._bind(row)
        self.dropout.masks = None if batch.masks is None else batch.masks[0]
        self._gradient.zero_()
        logits = self.model(**causal_inputs(batch.inputs[0])).logits[None]
        trained, reported = batch.loss(logits, batch.labels, batch.teacher, batch.share)
        trained.mean().backward()
        return reported.detach().mean(-1), self._gradient

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """See `Executor.logits`."""
        self.dropout.masks = None
        logits = []
        for row, ids in zip(rows, inputs, strict=True):
            self._bind(row)
            logits.append(self.model(**causal_inputs(ids)).logits)
        return torch.stack(logits) if len(logits) > 1 else logits[0][None]
