"""More or less weight decay and dropout, one level at a time."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import WEIGHT_DECAY_LEVELS
from llmo.registry import actions


@actions.register("regularise_more")
class RegulariseMore(Action):
    """One level more weight decay and dropout."""

    def allowed(self, run: Run, row: int) -> bool:
        """Below the highest level."""
        return run.states[row].hyperparameters.regularisation < len(WEIGHT_DECAY_LEVELS) - 1

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, regularisation=run.states[row].hyperparameters.regularisation + 1)


@actions.register("regularise_less")
class RegulariseLess(Action):
    """One level less weight decay and dropout."""

    def allowed(self, run: Run, row: int) -> bool:
        """Above the lowest level."""
        return run.states[row].hyperparameters.regularisation > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, regularisation=run.states[row].hyperparameters.regularisation - 1)
