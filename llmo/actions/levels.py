"""Turn a hyperparameter one level up or down."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import LEVELS, WEIGHT_DECAY_LEVELS


class TurnLevel(Action):
    """Turn one hyperparameter of `LEVELS`.

    Attributes:
        hyperparameter: Its name.
        by: 1 or -1.
    """

    hyperparameter: str
    by: int

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level."""
        settings = run.states[row].hyperparameters
        return getattr(settings, self.hyperparameter) + self.by in range(len(LEVELS[self.hyperparameter]))

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        level = getattr(run.states[row].hyperparameters, self.hyperparameter)
        run.change(row, **{self.hyperparameter: level + self.by})


class TurnExtra(Action):
    """Turn weight decay or dropout apart from the other.

    Attributes:
        hyperparameter: ``extra_decay`` or ``extra_dropout``.
        by: 1 or -1.
    """

    hyperparameter: str
    by: int

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level."""
        settings = run.states[row].hyperparameters
        level = settings.regularisation + getattr(settings, self.hyperparameter)
        return level in range(len(WEIGHT_DECAY_LEVELS)) and level + self.by in range(len(WEIGHT_DECAY_LEVELS))

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        extra = getattr(run.states[row].hyperparameters, self.hyperparameter)
        run.change(row, **{self.hyperparameter: extra + self.by})
