"""Add soft targets to the loss: half cross-entropy, half KL to a teacher (Hinton et al. 2015)."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.engine.run import Run
from llmo.registry import actions


class Distil(SetMode):
    """Change where soft targets come from."""

    hyperparameter = "distillation"

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on and there is such a teacher."""
        if self.mode == "teacher" and run.states[row].problem.teacher is None:
            return False
        return super().allowed(run, row)


@actions.register("distil_teacher")
class DistilTeacher(Distil):
    """Learn half from the external teacher's distribution; its forward passes are charged."""

    mode = "teacher"


@actions.register("distil_averaged")
class DistilAveraged(Distil):
    """Learn half from the distribution of the averaged weights (Tarvainen and Valpola 2017)."""

    mode = "averaged"


@actions.register("distil_off")
class DistilOff(Distil):
    """Learn from the labels alone."""

    mode = "off"
