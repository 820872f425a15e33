"""Causal language modelling: predict the next token of running text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.errors import LlmoError
from llmo.registry import tasks
from llmo.tasks.task import Examples, Task


class SoftTargetCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a mixture of the label and a teacher's distribution, fused.

    loss = (1 - w) * CE(label) + w * KL(teacher || student), the distillation loss of Hinton et al. (2015) at temperature 1.
    Its gradient in the logits is softmax - (1 - w) * onehot - w * teacher: one pass, no scattered buffers.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> Tensor:
        """See `Task.loss` for the shapes."""
        normaliser = torch.logsumexp(logits, -1, keepdim=True)
        loss = (normaliser - logits.gather(-1, labels[..., None])).squeeze(-1)
        if teacher is not None and weight is not None:
            weight = weight.view(-1, 1, 1)
            entropy = torch.special.entr(teacher).sum(-1)
            cross = normaliser.squeeze(-1) * teacher.sum(-1) - (teacher * logits).sum(-1)
            loss = (1 - weight) * loss + weight * (cross - entropy)
        ctx.save_for_backward(logits, normaliser, labels, teacher, weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Closed form, see the class."""
        logits, normaliser, labels, teacher, weight = ctx.saved_tensors
        result = (logits - normaliser).exp_()
        if teacher is None:
            hard = torch.full_like(normaliser, -1.0)
        else:
            hard = (weight - 1).unsqueeze(-1).expand_as(normaliser)
            result.sub_(teacher * weight.unsqueeze(-1))
        result.scatter_add_(-1, labels[..., None], hard)
        return result.mul_(gradients[0][..., None]), None, None, None


@tasks.register("causal_lm")
class CausalLM(Task):
    """Next-token prediction on windows of running text.

    Args:
        sources: Token arrays of the materials to train on, int16, each of more than `tokens` entries.
        validation: Validation windows, [V, T + 1].
        test: Test windows, [S, T + 1].

    Raises:
        LlmoError: A source is too short for one window.
    """

    def __init__(
        self, sources: tuple[NDArray[np.int16], ...], validation: NDArray[np.int64], test: NDArray[np.int64]
    ) -> None:
        self.tokens = validation.shape[1] - 1
        for source in sources:
            if len(source) <= self.tokens:
                raise LlmoError("source length", len(source), f"more than {self.tokens} tokens")
        self.sources = sources
        self.validation = split_windows(validation)
        self.test = split_windows(test)

    def draw(self, material: NDArray[np.int64], u: NDArray[np.float64]) -> NDArray[np.int64]:
        """See `Task.draw`: a window at a uniform offset."""
        window = np.arange(self.tokens + 1)
        rows = []
        for index, where in zip(material, u, strict=True):
            source = self.sources[index]
            rows.append(source[int(where * (len(source) - self.tokens)) + window])
        return np.stack(rows).astype(np.int64)

    def loss(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> Tensor:
        """See `Task.loss`."""
        result: Tensor = SoftTargetCrossEntropy.apply(logits, labels, teacher, weight)
        return result


def split_windows(windows: NDArray[np.int64]) -> Examples:
    """Windows of T + 1 tokens as inputs and next-token labels."""
    tensor = torch.from_numpy(np.ascontiguousarray(windows))
    return Examples(tensor[:, :-1].contiguous(), tensor[:, 1:].contiguous())
