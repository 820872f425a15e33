"""Two ways to run the forward and backward passes of n replicas: one plain module, or many under vmap.

Both take flat weight rows and give the same numbers within float32 rounding. Under vmap a row's numbers are bit-equal
whatever the other rows are and however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from llmo.engine.dropout import BlockDropout
from llmo.engine.layout import Layout

Loss = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Logits [n, B, T, V] to the loss per position [n, B, T] that is trained, and the one that is reported."""


class Executor(Protocol):
    """What `Run` needs of an executor."""

    layout: Layout

    def gradient(self, weights: Tensor, inputs: Tensor, loss: Loss, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """One training pass; what it gives is valid until the next.

        Args:
            weights: [n, P].
            inputs: Token ids [n, B, T].
            loss: From the logits.
            masks: Dropout masks [n, L, B, T, width], or None.

        Returns:
            The reported loss of each sequence [n, B], and the gradient of the trained loss' mean over the batch [n, P].
        """

    def logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Logits [n, B, T, V] without gradients."""


@lru_cache(maxsize=16)
def _causal(tokens: int) -> tuple[Tensor, Tensor]:
    mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)[None, None]
    return mask, torch.arange(tokens)[None]


def causal_inputs(tokens: int) -> dict[str, Tensor | bool]:
    """Explicit positions and a 4-D causal mask: what the classes would build themselves, in a form vmap can batch."""
    mask, positions = _causal(tokens)
    return {"attention_mask": mask, "position_ids": positions, "use_cache": False}


class Single:
    """One replica through the plain module: no vmap, parameters and gradients are views of flat rows.

    Args:
        model: The Hugging Face model; its parameters are rebound to the rows it is given.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layout = Layout(model)
        self.model = model.train()
        self.dropout = BlockDropout(model)
        self._bound = 0
        self._gradient = torch.zeros(1, self.layout.width)
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

    def gradient(self, weights: Tensor, inputs: Tensor, loss: Loss, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`; n is 1."""
        self._bind(weights[0])
        self.dropout.masks = None if masks is None else masks[0]
        self._gradient.zero_()
        trained, reported = loss(self.model(input_ids=inputs[0], **causal_inputs(inputs.shape[-1])).logits[None])
        trained.mean().backward()
        return reported.detach().mean(-1), self._gradient

    @torch.no_grad()
    def logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """See `Executor.logits`; n is 1."""
        self._bind(weights[0])
        self.dropout.masks = None
        result: Tensor = self.model(input_ids=inputs[0], **causal_inputs(inputs.shape[-1])).logits[None]
        return result


class Vmapped:
    """n replicas in one program: `torch.func.vmap` over the unmodified module.

    Args:
        model: The Hugging Face model; kept as a real skeleton, since tied weights on the meta device go silently wrong.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layout = Layout(model)
        self.model = model.train()
        self.dropout = BlockDropout(model)
        self._gradient = torch.zeros(0, self.layout.width)
        self._plain = vmap(lambda parameters, ids: self._forward(parameters, ids, None))
        self._dropped = vmap(self._forward)

    def _forward(self, parameters: dict[str, Tensor], ids: Tensor, masks: Tensor | None) -> Tensor:
        self.dropout.masks = masks
        arguments = {"input_ids": ids, **causal_inputs(ids.shape[-1])}
        result: Tensor = functional_call(self.model, parameters, kwargs=arguments).logits
        return result

    def gradient(self, weights: Tensor, inputs: Tensor, loss: Loss, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Executor.gradient`."""
        # Each parameter is a leaf of its own: the gradient of one flat leaf would be put together by a slow `cat`.
        leaves = {name: view.detach().requires_grad_() for name, view in self.layout.unflatten(weights).items()}
        logits = self._plain(leaves, inputs) if masks is None else self._dropped(leaves, inputs, masks)
        trained, reported = loss(logits)
        pieces = torch.autograd.grad(trained.mean((-2, -1)).sum(), list(leaves.values()))
        if len(self._gradient) < len(weights):
            self._gradient = torch.zeros(len(weights), self.layout.width)
        gradient = self._gradient[: len(weights)]
        for view, piece in zip(self.layout.unflatten(gradient).values(), pieces, strict=True):
            view.copy_(piece)
        return reported.detach().mean(-1), gradient

    @torch.no_grad()
    def logits(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """See `Executor.logits`."""
        result: Tensor = self._plain(self.layout.unflatten(weights), inputs)
        return result
