"""The contract of a task: what is trained on, and how a prediction is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.hyperparameters import Hyperparameters
from llmo.kinds import IGNORED
from llmo.tasks.prompts import Prompts, Shown


@dataclass(frozen=True)
class Examples:
    """Sequences ready for a model.

    Attributes:
        inputs: Token ids, int64 [..., T]; `PADDING` where a row holds nothing, see `llmo.kinds`.
        labels: What each position should predict, int64 [..., P] (float32 in a regression); `IGNORED` where nothing is.
    """

    inputs: Tensor
    labels: Tensor


class Codec(Protocol):
    """What turns tokens into text and back: a `tokenizers.Tokenizer`."""

    def encode_batch(self, input: Any, *, add_special_tokens: bool = True) -> Any:
        """Texts as encodings with `ids`."""

    def decode_batch(self, sequences: Any) -> Any:
        """Texts of ids."""

    def get_added_tokens_decoder(self) -> Any:
        """Tokens that are not of the text, some of them `special`."""


class Task(ABC):
    """One data set: training sources, validation and test examples, and the loss.

    Training data gives gradients, validation data gives rewards and observations, test data is read once, at the end of
    a scored episode, and reaches no agent, reward or rule.

    Attributes:
        validation: Examples of the validation split, [V, T].
        test: Examples of the test split, [S, T].
        sources: The materials, three or three for each phase: arrays, or tuples of arrays.
        sizes: Tokens in each of them.
        tokens: T, the length of a sequence.
        positions: P, how many predictions a sequence is asked for.
        padded: Whether labels may be `IGNORED`; all tasks of a class are alike.
        phases: In how many equal parts the held-out examples lie, one for each phase of data that shift.
        codec: Turns its tokens into text and back; None where nothing does.
        synonyms: Words with what may stand for them, as a user has given them.
        prompts: What may stand around its texts; None where nothing does.
    """

    validation: Examples
    test: Examples
    sources: Sequence[Any]
    sizes: tuple[int, ...]
    tokens: int
    positions: int
    padded: ClassVar[bool] = False
    phases: int = 1
    codec: Codec | None = None
    synonyms: Mapping[str, tuple[str, ...]] = {}
    prompts: Prompts | None = None

    @abstractmethod
    def draw(
        self,
        material: NDArray[np.int64],
        u: NDArray[np.float64],
        places: Sequence[NDArray[np.int64]] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Draw one training sequence for each entry.

        Args:
            material: Which of the materials each comes from, [B].
            u: Uniform numbers in [0, 1) that decide which, [B].
            places: Of each material, where sequences may be drawn from; None for anywhere. Only given to tasks that
                have `sequences` and `places_without`.

        Returns:
            Token ids [B, T] and labels [B, P].
        """

    @staticmethod
    @abstractmethod
    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss per position, of n replicas; the same for every task of a class, as they train in one program.

        Args:
            logits: [n, B, P, C].
            labels: [n, B, P].
            teacher: Teacher probabilities [n, B, P, C], anything finite where the weight is zero; or None.
            weight: Share of the loss that comes from the teacher, [n], in [0, 1]; None without a teacher.

        Returns:
            What is trained [n, B, P], differentiable with respect to `logits`; and the loss of the labels alone
            [n, B, P], not differentiable. Both are zero where the label is `IGNORED`.
        """

    @abstractmethod
    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss that is reported, lower is better and without gradients: mean over all that counts, [n]."""

    def sequences(self, material: int) -> NDArray[np.signedinteger[Any]]:
        """What a material holds, in sequences that can be left out, [N, T]; none where the task knows none."""
        return np.zeros((0, self.tokens), np.int64)

    def places_without(self, material: int, bad: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Where a material may be drawn from so that none of some of its `sequences`, bool [N], is touched."""
        raise NotImplementedError

    def shown(self, count: int) -> Shown:
        """Training examples that can be shown to a classifier, at most so many; none where the task has none."""
        return ()

    def can_read(self, template: int, shots: int) -> bool:
        """Whether its sequences have room for a template and so many examples."""
        shown = self.shown(shots)
        return self.prompts is not None and len(shown) == shots and self.prompts.fits(self.tokens, template, shown)

    def read(self, inputs: NDArray[np.int64], settings: Hyperparameters) -> NDArray[np.int64]:
        """Sequences [..., T] as a model reads them under some settings: in a template, behind examples."""
        if self.prompts is None or not (settings.template or settings.shots):
            return inputs
        return self.prompts.around(inputs, settings.template, self.shown(settings.shots))

    def held_out(self, examples: Examples, settings: Hyperparameters) -> Examples:
        """Examples of validation or test as a model reads them under some settings."""
        given = examples.inputs.numpy()
        inputs = self.read(given, settings)
        return examples if inputs is given else Examples(torch.from_numpy(inputs), examples.labels)

    def counts(self, labels: Tensor) -> Tensor:
        """How many labels of each sequence [..., P] count, [...]."""
        if not self.padded:
            return torch.full(labels.shape[:-1], labels.shape[-1], device=labels.device)
        return (labels != IGNORED).sum(-1)
