"""Add soft targets to the loss: half cross-entropy, half KL to a teacher (Hinton et al. 2015)."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.actions.levels import TurnLevel
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


@actions.register("distil_best")
class DistilBest(Distil):
    """Learn half from the distribution of the weights that have validated best (Furlanello et al. 2018)."""

    mode = "best"


@actions.register("distil_ensemble")
class DistilEnsemble(Distil):
    """Learn half from the mean of teacher, averaged and best weights (Hinton et al. 2015, section 3)."""

    mode = "ensemble"


class Temperature(TurnLevel):
    """Turn the temperature of the soft targets."""

    hyperparameter = "temperature"

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level, and the run distils."""
        return run.states[row].hyperparameters.distillation != "off" and super().allowed(run, row)


@actions.register("distil_hotter")
class DistilHotter(Temperature):
    """Compare student and teacher at twice the temperature."""

    by = 1


@actions.register("distil_cooler")
class DistilCooler(Temperature):
    """Compare student and teacher at half the temperature."""

    by = -1
