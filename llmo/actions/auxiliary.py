"""A second task with the same weights: predict what is read."""

from __future__ import annotations

from llmo.actions.levels import TurnLevel
from llmo.engine.run import Run
from llmo.registry import actions


@actions.register("auxiliary_more")
class AuxiliaryMore(TurnLevel):
    """Predict the tokens that are read as well, with more weight (Radford et al. 2018); the task is what is validated.

    Running text has been predicted already; the token after the next would need a head of its own.
    """

    hyperparameter, by = "auxiliary", 1

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level, and what is read is not what is learned already."""
        return run.can_predict_input(row) and super().allowed(run, row)


@actions.register("auxiliary_less")
class AuxiliaryLess(TurnLevel):
    """Predict the tokens that are read with less weight, or not at all."""

    hyperparameter, by = "auxiliary", -1
