"""Soft targets: from an external teacher, a replica's own averaged or best weights, all of them, or evenly spread."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmo.engine.executors import Executor
from llmo.engine.lanes import Lane
from llmo.engine.state import Problem
from llmo.hyperparameters import Distillation
from llmo.kinds import Interface, kind_of

DISTILLATION_WEIGHT = 0.5
"""Share of the loss that comes from the soft targets."""
_NUMBERS_AT_ONCE = 2**22
"""How many probabilities a teacher gives in one pass, at most: 16 MB."""


@dataclass(frozen=True)
class Soft:
    """Soft targets of n replicas.

    Attributes:
        teacher: Probabilities [n, B, P, C]; zero for a replica that has none.
        share: Their share in the loss of each replica, [n].
        temperature: At which probabilities are compared, [n]; None where all are at 1.
    """

    teacher: Tensor
    share: Tensor
    temperature: Tensor | None


class SoftTargets:
    """What replicas learn from besides the labels.

    Args:
        executor: Of the students.
        outputs: C, over how many classes targets are spread.
        device: Where they lie.
    """

    def __init__(self, executor: Executor, outputs: int, device: torch.device) -> None:
        self._executor, self._outputs, self._device = executor, outputs, device
        self._teachers: dict[int, tuple[Any, Any]] = {}

    @torch.no_grad()
    def __call__(self, lanes: Sequence[Lane], averaged: Tensor, inputs: Tensor, positions: int) -> Soft | None:
        """Soft targets of n replicas for a training batch; None when no replica has any.

        Smoothing the labels (Szegedy et al. 2016) is distilling from a teacher that knows nothing, so its share is
        added to the teacher's.

        Args:
            lanes: The replicas, n.
            averaged: Averaged weights of each, [n, P].
            inputs: Token ids [n, B, T].
            positions: P, how many predictions each sequence is asked for.
        """
        settings = [lane.state.hyperparameters for lane in lanes]
        modes = [setting.distillation for setting in settings]
        shares = [0.0 if mode == "off" else DISTILLATION_WEIGHT for mode in modes]
        smooth = [setting.level("smoothing") for setting in settings]
        if not any(shares) and not any(smooth):
            return None
        heat = [setting.level("temperature") if share else 1.0 for setting, share in zip(settings, shares)]
        given = [_GIVERS[mode] for mode in modes]
        found: dict[int, list[Tensor]] = {place: [] for place in range(len(lanes))}
        for name in ("averaged", "best", "larger"):
            places = [place for place, names in enumerate(given) if name in names]
            if places:
                rows = averaged[places] if name == "averaged" else _kept(lanes, places, name)
                for place, logits in zip(places, self._executor.logits(rows, inputs[places], positions), strict=True):
                    found[place].append(_softened(logits, heat[place]))
        for place, names in enumerate(given):
            if "teacher" in names and lanes[place].state.problem.teacher is not None:
                found[place].append(self._of_teacher(lanes[place], inputs[place], positions, heat[place]))
        shape = (*inputs.shape[1:-1], positions, self._outputs)
        targets = []
        for place, several in found.items():
            target = several[0] if len(several) == 1 else _mean(several, inputs.new_zeros(shape, dtype=torch.float32))
            if smooth[place]:
                known = shares[place] / (shares[place] + smooth[place])
                target = known * target + (1 - known) / self._outputs
            targets.append(target)
        share = torch.tensor([a + b for a, b in zip(shares, smooth)], device=inputs.device)
        hot = torch.tensor(heat, device=inputs.device) if any(value != 1 for value in heat) else None
        return Soft(torch.stack(targets), share, hot)

    def _of_teacher(self, lane: Lane, inputs: Tensor, positions: int, heat: float) -> Tensor:
        """Probabilities [B, P, C] of a lane's teacher for its next batch; the teacher sees many batches at once."""
        if lane.unlike_drawn:
            return _softened(self.teacher_logits(lane.state.problem.teacher, inputs, positions), heat)
        if lane.step not in lane.taught:
            inputs, teacher = lane.interval.inputs[lane.step :], self._here(lane.state.problem.teacher)
            outputs = Interface(teacher.config, kind_of(teacher)).outputs
            batches = max(1, _NUMBERS_AT_ONCE // (inputs.shape[1] * positions * outputs))
            soft = _softened(teacher_logits(teacher, inputs[:batches].flatten(0, 1), positions), heat)
            lane.taught = dict(enumerate(soft.unflatten(0, (-1, inputs.shape[1])), lane.step))
        return lane.taught[lane.step]

    def teacher_logits(self, teacher: Any, inputs: Tensor, positions: int) -> Tensor:
        """Logits [B, P, C] of a teacher, on the device of the students."""
        return teacher_logits(self._here(teacher), inputs, positions)

    def _here(self, teacher: Any) -> Any:
        """A teacher, on the device of the students."""
        if self._device.type == "cpu":
            return teacher
        # The original is kept, so that its identity stays its own.
        if id(teacher) not in self._teachers:
            self._teachers[id(teacher)] = teacher, copy.deepcopy(teacher).to(self._device)
        return self._teachers[id(teacher)][1]


_GIVERS: dict[Distillation, tuple[str, ...]] = {
    "off": (),
    "teacher": ("teacher",),
    "averaged": ("averaged",),
    "best": ("best",),
    "ensemble": ("averaged", "best", "teacher"),
    "larger": ("larger",),
}
"""Whose probabilities are averaged in each mode of distillation."""


def _kept(lanes: Sequence[Lane], places: list[int], name: str) -> Tensor:
    return torch.stack([getattr(lanes[place], name) for place in places])


def _softened(logits: Tensor, heat: float) -> Tensor:
    return logits.softmax(-1) if heat == 1 else (logits / heat).softmax(-1)


def _mean(several: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.stack(several).mean(0) if several else nothing


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
