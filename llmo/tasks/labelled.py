"""Tasks whose training data are examples, not running text: each has a label, or some labels and places without one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.errors import LlmoError
from llmo.kinds import IGNORED
from llmo.registry import tasks
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.prompts import Shown
from llmo.tasks.task import Examples, Task


@tasks.register("labelled")
class Labelled(Task):
    """Examples that are drawn one by one; the loss is the mean over the labels that count, of all of a batch.

    Args:
        sources: Examples of the materials to train on, [N, T] and [N, P] each.
        validation: Validation examples.
        test: Test examples.

    Attributes:
        sources: Ids [N, T] and labels [N, P] of each material.
        examples: How many each material has.

    Raises:
        LlmoError: A source is empty, or a split has no label that counts.
    """

    padded = True

    def __init__(self, sources: tuple[Examples, ...], validation: Examples, test: Examples) -> None:
        self.tokens, self.positions = validation.inputs.shape[1], validation.labels.shape[1]
        for source in sources:
            if not len(source.inputs):
                raise LlmoError("source length", 0, "at least one example")
        for name, split in (("validation", validation), ("test", test)):
            if not (split.labels != IGNORED).any():
                raise LlmoError(f"labels of the {name} split", "none", "at least one")
        self.validation, self.test = validation, test
        self.sources = [(source.inputs.numpy(), source.labels.numpy()) for source in sources]
        self.sizes = tuple(int((source.inputs >= 0).sum()) for source in sources)
        self.examples = tuple(len(source.inputs) for source in sources)

    def draw(
        self,
        material: NDArray[np.int64],
        u: NDArray[np.float64],
        places: Sequence[NDArray[np.int64]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `Task.draw`: any example, all alike."""
        inputs = np.empty((len(material), self.tokens), np.int64)
        labels = np.empty((len(material), self.positions), self.sources[0][1].dtype)
        for index, (ids, targets) in enumerate(self.sources):
            (here,) = np.nonzero(material == index)
            if places is None:
                chosen = (u[here] * len(ids)).astype(np.int64)
            else:
                chosen = places[index][(u[here] * len(places[index])).astype(np.int64)]
            inputs[here], labels[here] = ids[chosen], targets[chosen]
        return inputs, labels

    def shown(self, count: int) -> Shown:
        """See `Task.shown`: of the first source the first example, then the first of another label."""
        ids, labels = self.sources[0]
        _, first = np.unique(labels[:, 0], return_index=True)
        return tuple((ids[place], int(labels[place, 0])) for place in np.sort(first)[:count])

    def sequences(self, material: int) -> NDArray[np.int64]:
        """See `Task.sequences`: the examples."""
        ids: NDArray[np.int64] = self.sources[material][0]
        return ids

    def places_without(self, material: int, bad: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See `Task.places_without`: the other examples."""
        return np.flatnonzero(~bad)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Task.loss`: that of `CausalLM` where a label counts."""
        counts = labels != IGNORED
        trained, reported = CausalLM.loss(logits, torch.where(counts, labels, 0), teacher, weight)
        return torch.where(counts, trained, 0.0), torch.where(counts, reported, 0.0)

    @torch.no_grad()
    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.score`."""
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(len(labels), -1).double().sum(1) / self.counts(labels).sum(-1).clamp(min=1)
