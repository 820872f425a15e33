"""What runs the forward and backward passes of n replicas: the contract, and what all executors share.

`Single` runs them one after another through the plain module, `Vmapped` and `BatchedLora` in one program, `Compiled` is
one of these two through `torch.compile`. All take flat rows and give the same numbers within float32 rounding. In one
program a row's numbers are bit-equal whatever the other rows are and however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llmo.engine.layout import Layout
from llmo.engine.pieces import Pieces
from llmo.kinds import IGNORED

Gradient = Tensor | Pieces
"""Rows [n, P]."""
Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
"""A task's loss; see `Task.loss`."""


@dataclass(frozen=True)
class Batch:
    """What n replicas train on in one optimizer step.

    Attributes:
        inputs: Token ids [n, B, T].
        labels: [n, B, P].
        loss: The task's.
        masks: Dropout masks [n, L, B, T, width], or None for no dropout.
        teacher: Soft targets [n, B, P, C], or None.
        share: Their share in the loss, [n]; None without them.
        temperature: At which teacher and student are compared, [n]; None for 1.
        added: What is added to the embedded inputs, [n, B, T, width]; None for nothing.
        scale: Factor on the loss, [n], where only some of the B x P positions count: B P over their number; else None.
        read: Next tokens of the inputs that are predicted too, [n, B, T - 1], or None; see `what_is_read`.
        read_weight: Factor on the mean loss of those over all positions, [n]; None without them.
    """

    inputs: Tensor
    labels: Tensor
    loss: Loss
    masks: Tensor | None = None
    teacher: Tensor | None = None
    share: Tensor | None = None
    temperature: Tensor | None = None
    added: Tensor | None = None
    scale: Tensor | None = None
    read: Tensor | None = None
    read_weight: Tensor | None = None

    @property
    def positions(self) -> int:
        """P, how many predictions each sequence is asked for."""
        return self.labels.shape[-1]

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What is trained and what is reported of logits [n, B, P, C], both [n, B, P]; see `Task.loss`.

        At a temperature t the teacher's part is t^2 KL(teacher || softmax(logits / t)) (Hinton et al. 2015, section 2).
        """
        if self.temperature is None or self.share is None:
            return self.loss(logits, self.labels, self.teacher, self.share)
        hard, reported = self.loss(logits, self.labels, None, None)
        heat, share = self.temperature.view(-1, 1, 1), self.share.view(-1, 1, 1)
        soft, _ = self.loss(logits / heat[..., None], self.labels, self.teacher, torch.ones_like(self.share))
        return (1 - share) * hard + share * heat**2 * soft, reported

    def mean(self, trained: Tensor) -> Tensor:
        """The loss of each replica, [n], from what is trained by position [n, B, P]."""
        mean = trained.mean((-2, -1))
        return mean if self.scale is None else mean * self.scale

    def with_auxiliary(self, loss: Tensor, predicted: Tensor) -> Tensor:
        """The loss of each replica, [n], with that of what is read added, by its logits [n, B, T - 1, V]."""
        assert self.read is not None and self.read_weight is not None
        losses = cross_entropy(predicted.flatten(0, -2), self.read.flatten(), ignore_index=IGNORED, reduction="none")
        return loss + self.read_weight * losses.view(self.read.shape).mean((-2, -1))

    def pieces(self, count: int) -> list[Batch]:
        """The batch in `count` equal parts, which divides B: the same replicas, and some of their sequences."""
        if count == 1:
            return [self]
        size = self.inputs.shape[1] // count
        return [self._part(slice(size * index, size * (index + 1))) for index in range(count)]

    def rows(self, part: slice | list[int]) -> Batch:
        """The batch of some of the replicas."""
        tensors: dict[str, Any] = {name: value[part] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def _part(self, sequences: slice) -> Batch:
        return replace(
            self,
            inputs=self.inputs[:, sequences],
            labels=self.labels[:, sequences],
            masks=None if self.masks is None else self.masks[:, :, sequences],
            teacher=None if self.teacher is None else self.teacher[:, sequences],
            added=None if self.added is None else self.added[:, sequences],
            read=None if self.read is None else self.read[:, sequences],
        )


class Executor(Protocol):
    """What `Run` needs of an executor."""

    @property
    def layout(self) -> Layout:
        """Of a row: what is trained."""

    @property
    def lanes(self) -> int | None:
        """How many rows are best trained side by side; None to choose by size, see `good_lanes`."""

    def gradient(self, rows: Tensor, batch: Batch) -> tuple[Tensor, Gradient]:
        """One training pass; what it gives is valid until the next.

        Args:
            rows: What is trained, [n, P].
            batch: Of the same n.

        Returns:
            The reported loss of each sequence [n, B], and the gradient of the trained loss' mean over the batch [n, P],
            for one row perhaps in pieces.
        """

    def input_gradient(self, rows: Tensor, batch: Batch) -> Tensor:
        """Gradient of each sequence's trained loss in its embedded inputs, [n, B, T, width].

        Args:
            rows: What is trained, [n, P].
            batch: Of the same n, with what is added to the embedded inputs.
        """

    def logits(self, rows: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """Logits [n, B, P, C] of inputs [n, B, T] at P positions, without gradients."""
