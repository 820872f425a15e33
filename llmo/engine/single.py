"""Replicas one after another through the plain module: for one run, and where a single step fills the machine.

For a large model there is bfloat16 (autocast; the rows stay float32), gradient accumulation and activation
checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost").
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from llmo.engine.auxiliary import LastHidden, embeddings, read_logits
from llmo.engine.dropout import BlockDropout
from llmo.engine.embedding import Addition
from llmo.engine.executors import Batch, Executor, Gradient
from llmo.engine.layout import Layout
from llmo.engine.pieces import Pieces
from llmo.errors import LlmoError
from llmo.kinds import Interface, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class SingleSettings:
    """How one large model is trained.

    Attributes:
        precision: Of the passes; weights, moments and losses are float32 in any case.
        accumulation: In how many micro-batches an optimizer step sees its batch; it divides the number of sequences.
        checkpointing: Whether activations within a block are computed again in the backward pass instead of kept.

    Raises:
        LlmoError: One of them is not usable.
    """

    precision: Precision = "float32"
    accumulation: int = 1
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise LlmoError("precision", self.precision, get_args(Precision))
        if self.accumulation < 1:
            raise LlmoError("accumulation", self.accumulation, "at least 1")


def prepare(model: PreTrainedModel, settings: SingleSettings, device: torch.device) -> None:
    """Let a model compute in the precision of the settings, with checkpointing if they say so.

    Raises:
        LlmoError: The model's class cannot checkpoint.
    """
    if settings.checkpointing:
        if not model.supports_gradient_checkpointing:
            raise LlmoError("checkpointing", type(model).__name__, "a model class that supports it")
        # transformers 5.2x renamed the method and warns about the old name.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if settings.precision == "bfloat16":
        from accelerate.utils import convert_outputs_to_fp32

        forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
        model.forward = convert_outputs_to_fp32(forward)


class Single:
    """No vmap: parameters and gradients are views of flat rows.

    Args:
        model: The Hugging Face model; its parameters are rebound to the rows it is given.
        accumulation: Micro-batches of an optimizer step.
    """

    lanes: int | None = 1
    _hooked = False
    """Whether something waits for each parameter's gradient to be added up, as DDP and FSDP do."""

    def __init__(self, model: PreTrainedModel, accumulation: int = 1) -> None:
        self.layout = self._layout(model)
        self._interface = Interface(model.config, kind_of(model))
        # Without a mask of ours the fused kernel knows that it is causal; populations need the eager one.
        model.set_attn_implementation("sdpa")
        self.model = model.train()
        self._trained: Any = self.model
        self.dropout, self.addition, self.hidden = BlockDropout(model), Addition(model), LastHidden(model)
        self._accumulation, self._bound = accumulation, 0
        self._parameters = list(model.parameters())
        if accumulation > 1 or self._hooked:
            self._gradient = torch.zeros(1, self.layout.width, device=self._parameters[0].device)
            self._bind_gradient(self.layout.unflatten(self._gradient[0]))

    def _layout(self, model: nn.Module) -> Layout:
        return Layout(model)

    def _bind_gradient(self, views: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.grad = views[name]

    def _bind(self, row: Tensor) -> None:
        # The parameters keep the row alive, so that no other row can come to lie where it does.
        if row.data_ptr() != self._bound:
            views = self.layout.unflatten(row)
            for name, parameter in self.model.named_parameters():
                parameter.data = views[name]
            self._bound = row.data_ptr()

    def _unfinished(self) -> AbstractContextManager[None]:
        """Around the micro-batches that do not complete a gradient."""
        return nullcontext()

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Gradient]:
        """See `Executor.gradient`; n is 1."""
        (row,) = rows
        *pieces, last = batch.pieces(self._accumulation)
        self._bind(row)
        if not pieces and not self._hooked:
            loss, reported = self._forward(last)
            return reported, Pieces(self.layout, list(torch.autograd.grad(loss, self._parameters)))
        self._gradient.zero_()
        with self._unfinished():
            losses = [self._backward(piece) for piece in pieces]
        losses.append(self._backward(last))
        return torch.cat(losses, 1), self._gradient

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A batch's share of the loss that is trained, and its reported losses [1, B]."""
        self.dropout.masks = None if batch.masks is None else batch.masks[0]
        self.addition.added = None if batch.added is None else batch.added[0]
        self.hidden.wanted = batch.read is not None and self._interface.kind != "causal_lm"
        given = self._interface.arguments(batch.inputs[0], batch.positions)
        logits = self._interface.logits(self._trained(**given))[None]
        trained, reported = batch.losses(logits)
        loss = batch.mean(trained)
        if batch.read is not None:
            states = self.hidden.taken()
            predicted = read_logits(states[0][None], embeddings(self.model)) if states else logits[:, :, :-1]
            loss = batch.with_auxiliary(loss, predicted)
        mean = loss[0]
        return mean if self._accumulation == 1 else mean / self._accumulation, reported.detach().mean(-1)

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`; n is 1, and a sequence's gradient has the batch's number as a factor."""
        assert batch.added is not None
        self._bind(rows[0])
        gradients = []
        for piece in replace(batch, added=batch.added.detach().requires_grad_()).pieces(self._accumulation):
            assert piece.added is not None
            gradients.append(torch.autograd.grad(self._forward(piece)[0], piece.added)[0])
        return torch.cat(gradients, 1)

    def _backward(self, batch: Batch) -> Tensor:
        """Add a batch's share to the gradient; its reported losses [1, B]."""
        loss, reported = self._forward(batch)
        loss.backward()
        return reported

    @torch.no_grad()
    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""
        self.dropout.masks = self.addition.added = None
        self.hidden.wanted = False
        logits = []
        for row, ids in zip(rows, inputs, strict=True):
            self._bind(row)
            logits.append(self._interface.logits(self.model(**self._interface.arguments(ids, positions))))
        return torch.stack(logits) if len(logits) > 1 else logits[0][None]


class Accumulated:
    """Any executor in micro-batches, whose gradients are summed up beside it.

    Args:
        executor: What computes the micro-batches.
        accumulation: How many make an optimizer step.
    """

    def __init__(self, executor: Executor, accumulation: int) -> None:
        self.executor, self._accumulation = executor, accumulation
        self.layout, self.lanes = executor.layout, executor.lanes

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`."""
        losses, total = [], torch.zeros_like(rows)
        for piece in batch.pieces(self._accumulation):
            loss, gradient = self.executor.gradient(rows, piece)
            losses.append(loss)
            total.add_(gradient[:], alpha=1 / self._accumulation)
        return torch.cat(losses, 1), total

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """See `Executor.input_gradient`."""
        pieces = batch.pieces(self._accumulation)
        return torch.cat([self.executor.input_gradient(rows, piece) for piece in pieces], 1)

    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """See `Executor.logits`."""
        return self.executor.logits(rows, inputs, positions)
