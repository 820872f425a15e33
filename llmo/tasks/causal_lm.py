"""Causal language modelling: predict the next token of running text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.errors import LlmoError
from llmo.registry import tasks
from llmo.tasks.task import Examples, Task


@tasks.register("causal_lm")
class CausalLM(Task):
    """Next-token prediction on windows of running text.

    Args:
        sources: Token arrays of the materials to train on, integers, each of more than `tokens` entries.
        validation: Validation windows, [V, T + 1].
        test: Test windows, [S, T + 1].

    Raises:
        LlmoError: A source is too short for one window.
    """

    def __init__(
        self,
        sources: tuple[NDArray[np.signedinteger[Any]], ...],
        validation: NDArray[np.int64],
        test: NDArray[np.int64],
    ) -> None:
        self.tokens = self.positions = validation.shape[1] - 1
        for source in sources:
            if len(source) <= self.tokens:
                raise LlmoError("source length", len(source), f"more than {self.tokens} tokens")
        self.sources = sources
        self.sizes = tuple(map(len, sources))
        self.validation = split_windows(validation)
        self.test = split_windows(test)

    def draw(
        self,
        material: NDArray[np.int64],
        u: NDArray[np.float64],
        places: Sequence[NDArray[np.int64]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Task.draw`: a window at a uniform offset."""
        windows = np.empty((len(material), self.tokens + 1), np.int64)
        for index, source in enumerate(self.sources):
            (here,) = np.nonzero(material == index)
            if places is None:
                starts = (u[here] * (len(source) - self.tokens)).astype(np.int64)
            else:
                starts = places[index][(u[here] * len(places[index])).astype(np.int64)]
            windows[here] = source[starts[:, None] + np.arange(self.tokens + 1)]
        return windows[:, :-1], windows[:, 1:]

    def sequences(self, material: int) -> NDArray[np.signedinteger[Any]]:
        """See `Task.sequences`: stretches of T tokens, one after the other."""
        source = self.sources[material]
        whole = len(source) // self.tokens * self.tokens
        stretches: NDArray[np.signedinteger[Any]] = source[:whole].reshape(-1, self.tokens)
        return stretches

    def places_without(self, material: int, bad: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See `Task.places_without`: offsets of windows."""
        starts = np.arange(len(self.sources[material]) - self.tokens)
        touched = np.append(bad, False)
        first, last = (np.minimum(place // self.tokens, len(bad)) for place in (starts, starts + self.tokens))
        return starts[~(touched[first] | touched[last])]

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Task.loss`: a mixture of label and teacher at temperature 1 (Hinton et al. 2015).

        loss = (1 - w) * CE(label) + w * KL(teacher || student)
        """
        logs = logits.log_softmax(-1)
        hard = -logs.gather(-1, labels[..., None]).squeeze(-1)
        if teacher is None or weight is None:
            return hard, hard.detach()
        share = weight.view(-1, 1, 1)
        entropy = torch.special.entr(teacher).sum(-1)
        return (1 - share) * hard - share * ((teacher * logs).sum(-1) + entropy), hard.detach()

    @torch.no_grad()
    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.score`; torch's own kernel, which reads the logits once."""
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        return losses.view(len(labels), -1).double().mean(1)


def split_windows(windows: NDArray[np.int64]) -> Examples:
    """Windows of T + 1 tokens as inputs and next-token labels."""
    tensor = torch.from_numpy(np.ascontiguousarray(windows))
    return Examples(tensor[:, :-1].contiguous(), tensor[:, 1:].contiguous())
