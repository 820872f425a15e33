"""The contract of a task: what is trained on, and how a prediction is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Sequences ready for a model.

    Attributes:
        inputs: Token ids, int64 [..., T].
        labels: What each position should predict, int64 [..., T].
    """

    inputs: Tensor
    labels: Tensor


class Task(ABC):
    """One data set: training sources, validation and test examples, and the loss.

    Training data gives gradients, validation data gives rewards and observations, test data is read once, at the end of
    a scored episode, and reaches no agent, reward or rule.

    Attributes:
        validation: Examples of the validation split, [V, T].
        test: Examples of the test split, [S, T].
        sources: Token arrays of the three materials, int16, each longer than a sequence.
        tokens: T, the length of a sequence.
    """

    validation: Examples
    test: Examples
    sources: tuple[NDArray[np.int16], ...]
    tokens: int

    @abstractmethod
    def draw(self, material: NDArray[np.int64], u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw one raw sequence for each entry.

        Args:
            material: Which of `sources` each comes from, [B].
            u: Uniform numbers in [0, 1) that decide where, [B].

        Returns:
            Token ids [B, T + 1]; inputs are all but the last column, labels all but the first.
        """

    @staticmethod
    @abstractmethod
    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss per position, of n replicas; the same for every task of a class, as they train in one program.

        Args:
            logits: [n, B, T, V].
            labels: [n, B, T].
            teacher: Teacher probabilities [n, B, T, V], anything finite where the weight is zero; or None.
            weight: Share of the loss that comes from the teacher, [n], in [0, 1]; None without a teacher.

        Returns:
            What is trained [n, B, T], differentiable with respect to `logits`; and the loss of the labels alone
            [n, B, T], not differentiable.
        """

    @abstractmethod
    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss that is reported, lower is better and without gradients: mean over all but the first axis, [n]."""
