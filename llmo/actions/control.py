"""Carry on, go back, or take the average: actions on the run as a whole."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import RATE_RANGE
from llmo.registry import actions


@actions.register("keep")
class Keep(Action):
    """Train on with everything as it is."""

    def allowed(self, run: Run, row: int) -> bool:
        """Always."""
        return True

    def apply(self, run: Run, row: int) -> None:
        """Nothing changes."""


@actions.register("rollback")
class Rollback(Action):
    """Back to the best weights, optimizer and settings so far, at half the lower rate; no budget comes back.

    The lower of the best state's rate and the current one, relative to their defaults: so a second try from the same
    weights is slower than the first.
    """

    def allowed(self, run: Run, row: int) -> bool:
        """When the last validation was not the best, while the budget pays for validating a model of that size."""
        state = run.states[row]
        worse = state.best_state is not None and state.priced > state.best_priced
        return worse and run.pays_as(row, run.saved_structure(row, "best"))

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        current = run.relative_rate(row)
        run.load_best(row)
        relative = min(current, run.relative_rate(row)) / 2
        run.change(row, learning_rate=max(relative, RATE_RANGE[0]) * run.default_rate(row))


@actions.register("load_averaged")
class LoadAveraged(Action):
    """Replace the weights by their running average over about two intervals (Polyak and Juditsky 1992)."""

    def allowed(self, run: Run, row: int) -> bool:
        """Once the average holds at least one interval."""
        state = run.states[row]
        return state.averaged_steps >= state.problem.interval and run.mixes(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.load_averaged(row)


@actions.register("stop")
class Stop(Action):
    """End the run with the best weights so far, where what is left of the budget is worth something (Prechelt 1998)."""

    def allowed(self, run: Run, row: int) -> bool:
        """Where the budget has a price, once something was validated."""
        state = run.states[row]
        return state.problem.price > 0 and state.best_state is not None

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.stop(row)
