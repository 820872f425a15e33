"""Turn the learning rate: by a factor, to the default, or into a decay to zero."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import RATE_RANGE
from llmo.registry import actions


class ScaleRate(Action):
    """Multiply the learning rate.

    Attributes:
        factor: By what.
    """

    factor: float

    def allowed(self, run: Run, row: int) -> bool:
        """While the rate stays within `RATE_RANGE` of the default, and no schedule rule sets it."""
        state = run.states[row]
        relative = self.factor * run.relative_rate(row)
        return state.schedule is None and RATE_RANGE[0] <= relative <= RATE_RANGE[1]

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, learning_rate=self.factor * run.states[row].hyperparameters.learning_rate)


@actions.register("rate_x0.2")
class RateFifth(ScaleRate):
    """Learning rate times 0.2."""

    factor = 0.2


@actions.register("rate_x0.5")
class RateHalf(ScaleRate):
    """Learning rate times 0.5."""

    factor = 0.5


@actions.register("rate_x2")
class RateDouble(ScaleRate):
    """Learning rate times 2."""

    factor = 2.0


@actions.register("rate_x5")
class RateFivefold(ScaleRate):
    """Learning rate times 5."""

    factor = 5.0


@actions.register("rate_default")
class RateDefault(Action):
    """Set the learning rate to the published default and end any decay."""

    def allowed(self, run: Run, row: int) -> bool:
        """When it is not there already, and no schedule rule sets it."""
        state = run.states[row]
        settings = state.hyperparameters
        at_default = settings.learning_rate == run.default_rate(row) and settings.decay_from is None
        return state.schedule is None and not at_default

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, learning_rate=run.default_rate(row), decay_from=None, cosine=False)


@actions.register("rate_decay")
class RateDecay(Action):
    """Decay the learning rate linearly to zero over what is left of the budget."""

    def allowed(self, run: Run, row: int) -> bool:
        """When it is not decaying yet, and no schedule rule sets it."""
        state = run.states[row]
        return state.schedule is None and state.hyperparameters.decay_from is None

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        state = run.states[row]
        run.change(row, decay_from=min(state.spent / state.problem.budget, 0.999), cosine=False)
