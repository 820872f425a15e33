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

    loss = (1 - w) * CE(label) + w * KL(teacher || student), the distillation loss of Hinton et al. (2015) at
    temperature 1. Its gradient in the logits is softmax - (1 - w) * onehot - w * teacher, in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `Task.loss`."""
        probabilities = logits.softmax(-1)
        # The most probable token has exp(0) / total, so no second exponential is needed, and nothing underflows.
        normaliser = logits.amax(-1, keepdim=True) - probabilities.amax(-1, keepdim=True).log()
        hard = (normaliser - logits.gather(-1, labels[..., None])).squeeze(-1)
        trained = hard.clone()
        if teacher is not None and weight is not None:
            share = weight.view(-1, 1, 1)
            cross = normaliser.squeeze(-1) - (teacher * logits).sum(-1)
            entropy = torch.special.entr(teacher).sum(-1)
            trained = (1 - share) * hard + share * (cross - entropy)
        ctx.save_for_backward(probabilities, labels, teacher, weight)
        ctx.mark_non_differentiable(hard)
        return trained, hard

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Closed form, see the class."""
        probabilities, labels, teacher, weight = ctx.saved_tensors
        upstream = gradients[0][..., None]
        share = 0.0 if weight is None else weight.view(-1, 1, 1, 1)
        result = probabilities * upstream
        result.scatter_add_(-1, labels[..., None], upstream * (share - 1))
        if teacher is not None:
            result -= teacher * (upstream * share)
        return result, None, None, None


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
        windows = np.empty((len(material), self.tokens + 1), np.int64)
        for index, source in enumerate(self.sources):
            (places,) = np.nonzero(material == index)
            starts = (u[places] * (len(source) - self.tokens)).astype(np.int64)
            windows[places] = source[starts[:, None] + np.arange(self.tokens + 1)]
        return windows

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Task.loss`."""
        result: tuple[Tensor, Tensor] = SoftTargetCrossEntropy.apply(logits, labels, teacher, weight)
        return result

    @torch.no_grad()
    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.score`; torch's own kernel, which reads the logits once."""
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        return losses.view(len(labels), -1).double().mean(1)


def split_windows(windows: NDArray[np.int64]) -> Examples:
    """Windows of T + 1 tokens as inputs and next-token labels."""
    tensor = torch.from_numpy(np.ascontiguousarray(windows))
    return Examples(tensor[:, :-1].contiguous(), tensor[:, 1:].contiguous())
