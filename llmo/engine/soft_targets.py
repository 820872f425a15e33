"""Soft targets for distillation: from an external teacher, or from a replica's own averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmo.engine.executors import Executor
from llmo.engine.lanes import Lane
from llmo.engine.state import Problem
from llmo.kinds import Interface, kind_of

DISTILLATION_WEIGHT = 0.5
"""Share of the loss that comes from the soft targets."""
_NUMBERS_AT_ONCE = 2**22
"""How many probabilities a teacher gives in one pass, at most: 16 MB."""


class SoftTargets:
    """What replicas learn from besides the labels.

    Args:
        executor: Of the students.
        device: Where they lie.
    """

    def __init__(self, executor: Executor, device: torch.device) -> None:
        self._executor, self._device = executor, device
        self._teachers: dict[int, tuple[Any, Any]] = {}

    @torch.no_grad()
    def __call__(
        self, lanes: Sequence[Lane], averaged: Tensor, inputs: Tensor, positions: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Soft targets of n replicas for a training batch.

        Args:
            lanes: The replicas, n.
            averaged: Averaged weights of each, [n, P].
            inputs: Token ids [n, B, T].
            positions: P, how many predictions each sequence is asked for.

        Returns:
            Probabilities [n, B, P, C], zero for a replica that does not distil, and their share in the loss of each
            replica [n]; None twice when no replica distils.
        """
        modes = [lane.state.hyperparameters.distillation for lane in lanes]
        taught = [place for place, mode in enumerate(modes) if mode != "off"]
        if not taught:
            return None, None
        soft: dict[int, Tensor] = {}
        own = [place for place in taught if modes[place] == "averaged"]
        if own:
            soft.update(zip(own, self._executor.logits(averaged[own], inputs[own], positions).softmax(-1), strict=True))
        soft.update((place, self._of_teacher(lanes[place], positions)) for place in taught if place not in soft)
        neutral = torch.zeros_like(soft[taught[0]])
        share = torch.zeros(len(lanes), device=inputs.device)
        share[taught] = DISTILLATION_WEIGHT
        return torch.stack([soft.get(place, neutral) for place in range(len(lanes))]), share

    def _of_teacher(self, lane: Lane, positions: int) -> Tensor:
        """Probabilities [B, P, C] of a lane's teacher for its next batch; the teacher sees many batches at once."""
        if lane.step not in lane.taught:
            inputs = lane.interval.inputs[lane.step :]
            teacher = self._here(lane.state.problem.teacher)
            outputs = Interface(teacher.config, kind_of(teacher)).outputs
            batches = max(1, _NUMBERS_AT_ONCE // (inputs.shape[1] * positions * outputs))
            soft = teacher_logits(teacher, inputs[:batches].flatten(0, 1), positions).softmax(-1)
            lane.taught = dict(enumerate(soft.unflatten(0, (-1, inputs.shape[1])), lane.step))
        return lane.taught[lane.step]

    def _here(self, teacher: Any) -> Any:
        """A teacher, on the device of the students."""
        if self._device.type == "cpu":
            return teacher
        # The original is kept, so that its identity stays its own.
        if id(teacher) not in self._teachers:
            self._teachers[id(teacher)] = teacher, copy.deepcopy(teacher).to(self._device)
        return self._teachers[id(teacher)][1]


@torch.no_grad()
def teacher_logits(teacher: Any, inputs: Tensor, positions: int) -> Tensor:
    """Logits [B, P, C] of one teacher."""
    interface = Interface(teacher.config, kind_of(teacher))
    return interface.logits(teacher(**interface.batchable(inputs, positions)))


def teacher_loss(problem: Problem) -> float:
    """Validation loss of a problem's teacher, nats per token."""
    examples = problem.task.validation
    logits = teacher_logits(problem.teacher, examples.inputs, examples.labels.shape[-1])
    return problem.task.score(logits[None], examples.labels[None]).item()
