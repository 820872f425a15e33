"""Soft targets for distillation: from an external teacher, or from a replica's own averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmo.engine.compiled import Compiled
from llmo.engine.executors import Executor, causal_inputs
from llmo.engine.layout import Layout
from llmo.engine.single import Single
from llmo.engine.state import Problem, State
from llmo.engine.vmapped import Vmapped

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
        self._programs: dict[str, Executor] = {}
        self._teachers: dict[int, tuple[Any, str, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, states: Sequence[State], averaged: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Soft targets of n replicas, all of which distil, for a training batch.

        Args:
            states: The replicas, n.
            averaged: Averaged weights of each, [n, P].
            inputs: Token ids [n, B, T].

        Returns:
            Probabilities [n, B, T, V], and their share in the loss of each replica [n].
        """
        logits: dict[int, Tensor] = {}
        own = [place for place, state in enumerate(states) if state.hyperparameters.distillation == "averaged"]
        if own:
            logits.update(zip(own, self._executor.logits(averaged[own], inputs[own]), strict=True))
        teachers = {place: state.problem.teacher for place, state in enumerate(states) if place not in logits}
        if isinstance(self._executor, Single):
            logits.update((place, teacher_logits(teacher, inputs[place])) for place, teacher in teachers.items())
        else:
            logits.update(self._together(teachers, inputs))
        share = torch.full((len(states),), DISTILLATION_WEIGHT, device=inputs.device)
        return torch.stack([logits[place] for place in range(len(states))]).softmax(-1), share

    def _together(self, teachers: dict[int, Any], inputs: Tensor) -> dict[int, Tensor]:
        """Logits [B, T, V] by place, one program for each shape of teacher."""
        groups: dict[str, list[int]] = {}
        for place, teacher in teachers.items():
            if id(teacher) not in self._teachers:
                shape = teacher.config.to_json_string()
                if shape not in self._programs:
                    program = Vmapped(copy.deepcopy(teacher))
                    compiled = isinstance(self._executor, Compiled)
                    self._programs[shape] = Compiled(program) if compiled else program
                self._teachers[id(teacher)] = teacher, shape, Layout(teacher).flatten(teacher)
            groups.setdefault(self._teachers[id(teacher)][1], []).append(place)
        logits: dict[int, Tensor] = {}
        for shape, places in groups.items():
            rows = torch.stack([self._teachers[id(teachers[place])][2] for place in places])
            logits.update(zip(places, self._programs[shape].logits(rows, inputs[places]), strict=True))
        return logits


@torch.no_grad()
def teacher_logits(teacher: Any, inputs: Tensor) -> Tensor:
    """Logits [B, T, V] of one teacher."""
    result: Tensor = teacher(**causal_inputs(inputs)).logits
    return result


def teacher_loss(problem: Problem) -> float:
    """Validation loss of a problem's teacher, nats per token."""
    examples = problem.task.validation
    return problem.task.score(teacher_logits(problem.teacher, examples.inputs)[None], examples.labels[None]).item()
