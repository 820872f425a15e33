"""Turn a hyperparameter one level up or down."""

from __future__ import annotations

from dataclasses import replace

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import DROPOUT_LEVELS, LEVELS, WEIGHT_DECAY_LEVELS, Hyperparameters


class Turn(Action):
    """Turn one hyperparameter.

    Attributes:
        hyperparameter: Its name.
        by: 1 or -1.
    """

    hyperparameter: str
    by: int

    def turned(self, settings: Hyperparameters) -> Hyperparameters | None:
        """The settings with it turned; None where it cannot be."""
        raise NotImplementedError

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level."""
        return self.turned(run.states[row].hyperparameters) is not None

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        turned = self.turned(run.states[row].hyperparameters)
        run.change(row, **{self.hyperparameter: getattr(turned, self.hyperparameter)})


class TurnLevel(Turn):
    """Turn one hyperparameter of `LEVELS`."""

    def turned(self, settings: Hyperparameters) -> Hyperparameters | None:
        """See `Turn.turned`."""
        level = getattr(settings, self.hyperparameter) + self.by
        return (
            replace(settings, **{self.hyperparameter: level})
            if level in range(len(LEVELS[self.hyperparameter]))
            else None
        )


EXTRA = {"extra_decay": WEIGHT_DECAY_LEVELS, "extra_dropout": DROPOUT_LEVELS}
"""Values of weight decay and of dropout by level."""


class TurnExtra(Turn):
    """Turn weight decay (`extra_decay`) or dropout (`extra_dropout`) apart from the other, to the next value."""

    def turned(self, settings: Hyperparameters) -> Hyperparameters | None:
        """See `Turn.turned`."""
        values = EXTRA[self.hyperparameter]
        now = min(max(0, settings.regularisation + getattr(settings, self.hyperparameter)), len(values) - 1)
        level = now + self.by
        while level in range(len(values)) and values[level] == values[now]:
            level += self.by
        if level not in range(len(values)):
            return None
        return replace(settings, **{self.hyperparameter: level - settings.regularisation})
