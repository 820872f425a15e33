"""Many LoRA adapters on one frozen base in one program: the base runs once on the n * B sequences of all replicas.

Each linear layer adds 2 B A x of the replica that a sequence belongs to, by two batched products (the idea of serving
many adapters at once, Chen et al. 2023, "Punica", here with gradients).
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmo.engine.adapters import SCALING
from llmo.engine.auxiliary import LastHidden, embeddings, read_logits
from llmo.engine.dropout import BlockDropout
from llmo.engine.embedding import Addition
from llmo.engine.executors import Batch
from llmo.engine.layout import FactorLayout, Linear
from llmo.kinds import Interface, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BatchedLora:
    """n replicas that share the frozen base; a row holds a replica's factors.

    Args:
        model: The base; it gets hooks, and its parameters are frozen.
        lanes: How many rows are trained side by side; None to choose by size.
    """

    def __init__(self, model: PreTrainedModel, lanes: int | None = None) -> None:
        self.layout, self.lanes = FactorLayout(model), lanes
        self.model = model.train().requires_grad_(False)
        self._kind = kind_of(model)
        self.interface = Interface(model.config, self._kind)
        self.dropout, self.addition, self.hidden = BlockDropout(model), Addition(model), LastHidden(model)
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        modules = dict(model.named_modules())
        for linear in self.layout.factors:
            modules[linear.name].register_forward_hook(self._hook(linear))

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """Equal identities compute the same function: the base is a part of it."""
        weights = self.layout.base.flatten(self.model).cpu().numpy().tobytes()
        return "lora", self._kind, self.model.config.to_json_string(), hashlib.sha256(weights).hexdigest()

    def _hook(self, linear: Linear) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            a, b = self._factors[linear.name]
            x = inputs[0].reshape(len(a), -1, linear.inputs)
            change = torch.bmm(torch.bmm(x, a.transpose(1, 2)), b.transpose(1, 2))
            return torch.add(output, change.view(output.shape), alpha=SCALING)

        return hook

    def _forward(
        self,
        factors: dict[str, tuple[Tensor, Tensor]],
        inputs: Tensor,
        positions: int,
        masks: Tensor | None = None,
        added: Tensor | None = None,
        hidden: bool = False,
    ) -> tuple[Tensor, ...]:
        self._factors, self.hidden.wanted = factors, hidden
        n, sequences, tokens = inputs.shape
        # The blocks see the n * B sequences in one batch: [n, L, B, T, W] becomes [L, n * B, T, W].
        self.dropout.masks = None if masks is None else masks.transpose(0, 1).flatten(1, 2)
        self.addition.added = None if added is None else added.flatten(0, 1)
        ids = inputs.reshape(n * sequences, tokens)
        # Of the other kinds some look ahead, so they build their masks themselves.
        call = self.interface.batchable if self._kind == "causal_lm" else self.interface.arguments
        logits = self.interface.logits(self.model(**call(ids, positions)))
        states = [state.unflatten(0, (n, sequences)) for state in self.hidden.taken()]
        return logits.view(n, sequences, positions, -1), *states

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`."""
        factors = {linear.name: linear.factors(rows.detach()) for linear in self.layout.factors}
        leaves = [factor.requires_grad_() for pair in factors.values() for factor in pair]
        with torch.enable_grad():
            asked = batch.read is not None and self._kind != "causal_lm"
            logits, *hidden = self._forward(factors, batch.inputs, batch.positions, batch.masks, batch.added, asked)
            trained, reported = batch.losses(logits)
            loss = batch.mean(trained)
            if batch.read is not None:
                predicted = read_logits(hidden[0], embeddings(self.model)) if hidden else logits[:, :, :-1]
                loss = batch.with_auxiliary(loss, predicted)
            pieces = torch.autograd.grad(loss.sum(), leaves)
        return reported.detach().mean(-1), self.layout.join(pieces)

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`."""
        assert batch.added is not None
        factors = {linear.name: linear.factors(rows.detach()) for linear in self.layout.factors}
        added = batch.added.detach().requires_grad_()
        with torch.enable_grad():
            trained, _ = batch.losses(self._forward(factors, batch.inputs, batch.positions, batch.masks, added)[0])
            return torch.autograd.grad(trained.sum(), added)[0]

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""
        factors = {linear.name: linear.factors(rows) for linear in self.layout.factors}
        return self._forward(factors, inputs, positions)[0]
