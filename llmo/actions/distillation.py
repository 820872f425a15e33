"""Add soft targets to the loss: half cross-entropy, half KL to a teacher (Hinton et al. 2015)."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import Distillation
from llmo.registry import actions


class Distil(Action):
    """Change where soft targets come from.

    Attributes:
        distillation: The mode it sets.
    """

    distillation: Distillation

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on and there is such a teacher."""
        state = run.states[row]
        if self.distillation == "teacher" and state.problem.teacher is None:
            return False
        return state.hyperparameters.distillation != self.distillation

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, distillation=self.distillation)


@actions.register("distil_teacher")
class DistilTeacher(Distil):
    """Learn half from the external teacher's distribution; its forward passes are charged."""

    distillation = "teacher"


@actions.register("distil_averaged")
class DistilAveraged(Distil):
    """Learn half from the distribution of the averaged weights (Tarvainen and Valpola 2017)."""

    distillation = "averaged"


@actions.register("distil_off")
class DistilOff(Distil):
    """Learn from the labels alone."""

    distillation = "off"
