"""Which of the drawn sequences are trained on, of twice as many; the passes that look at them are charged."""

from __future__ import annotations

from llmo.actions.action import SetMode
from llmo.registry import actions


class Select(SetMode):
    """Change the selection."""

    hyperparameter = "selection"


@actions.register("select_off")
class SelectOff(Select):
    """Train on all that is drawn."""

    mode = "off"


@actions.register("select_clean")
class SelectClean(Select):
    """Drop the half with the higher loss under a reference: the teacher, or the averaged weights."""

    mode = "clean"


@actions.register("select_hard")
class SelectHard(Select):
    """Keep the half that the model finds harder (Loshchilov and Hutter 2016)."""

    mode = "hard"


@actions.register("select_curriculum")
class SelectCurriculum(Select):
    """From the easier half to the harder as the budget is spent (Bengio et al. 2009)."""

    mode = "curriculum"
