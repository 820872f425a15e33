"""Soft targets for distillation: from an external teacher, or from a replica's own averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmo.engine.executors import Executor, Single, Vmapped, causal_inputs
from llmo.engine.layout import Layout
from llmo.engine.state import Problem, State

DISTILLATION_WEIGHT = 0.5
"""Share of the loss that comes from the soft targets."""


class SoftTargets:
    """What replicas learn from besides the labels.

    Teachers are run as their students are: alone, or those of one shape in one program, where each one's logits do not
    depend on the others.

    Args:
        executor: Of the students.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._programs: dict[str, Vmapped] = {}
        self._teachers: dict[int, tuple[Any, str, Tensor]] = {}

    @torch.no_grad()
    def __call__(
        self, states: Sequence[State], averaged: Sequence[Tensor], inputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Soft targets of n replicas for a training batch.

        Args:
            states: The replicas, n.
            averaged: Averaged weights of each, n of [P].
            inputs: Token ids [n, B, T].

        Returns:
            Probabilities [k, B, T, V] of the k replicas that distil, in order, and their share in the loss of each
            replica [n]; None twice when no replica distils.
        """
        modes = [state.hyperparameters.distillation for state in states]
        taught = [place for place, mode in enumerate(modes) if mode != "off"]
        if not taught:
            return None, None
        logits: dict[int, Tensor] = {}
        own = [place for place in taught if modes[place] == "averaged"]
        if own:
            rows = self._executor.logits(torch.stack([averaged[place] for place in own]), inputs[own])
            logits.update(zip(own, rows, strict=True))
        others = [place for place in taught if modes[place] == "teacher"]
        if isinstance(self._executor, Single):
            logits.update((place, teacher_logits(states[place].problem, inputs[place])) for place in others)
        else:
            logits.update(self._together({place: states[place].problem.teacher for place in others}, inputs))
        share = torch.zeros(len(states))
        share[taught] = DISTILLATION_WEIGHT
        return torch.stack([logits[place] for place in taught]).softmax(-1), share

    def _together(self, teachers: dict[int, Any], inputs: Tensor) -> dict[int, Tensor]:
        """Logits [B, T, V] by place, one program for each shape of teacher."""
        groups: dict[str, list[int]] = {}
        for place, teacher in teachers.items():
            if id(teacher) not in self._teachers:
                shape = teacher.config.to_json_string()
                if shape not in self._programs:
                    self._programs[shape] = Vmapped(copy.deepcopy(teacher))
                self._teachers[id(teacher)] = teacher, shape, Layout(teacher).flatten(teacher)
            groups.setdefault(self._teachers[id(teacher)][1], []).append(place)
        logits: dict[int, Tensor] = {}
        for shape, places in groups.items():
            rows = torch.stack([self._teachers[id(teachers[place])][2] for place in places])
            logits.update(zip(places, self._programs[shape].logits(rows, inputs[places]), strict=True))
        return logits


@torch.no_grad()
def teacher_logits(problem: Problem, inputs: Tensor) -> Tensor:
    """Logits [B, T, V] of a problem's teacher."""
    result: Tensor = problem.teacher(input_ids=inputs, **causal_inputs(inputs.shape[-1])).logits
    return result


def teacher_loss(problem: Problem) -> float:
    """Validation loss of a problem's teacher, nats per token."""
    examples = problem.task.validation
    return problem.task.score(teacher_logits(problem, examples.inputs)[None], examples.labels[None]).item()
