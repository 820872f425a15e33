"""Keep what was learned before: pull weights back to an anchor, replay older data."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.actions.levels import TurnLevel
from llmo.engine.run import Run
from llmo.registry import actions


@actions.register("anchor_set")
class AnchorSet(Action):
    """Pull weights back to what they are now, the more they mattered (EWC, Kirkpatrick et al. 2017)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While all weights are trained, and they are not the anchor already."""
        return run.can_anchor(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.anchor(row)


@actions.register("anchor_off")
class AnchorOff(Action):
    """Let the weights go where they go."""

    def allowed(self, run: Run, row: int) -> bool:
        """While they are pulled back."""
        return run.states[row].hyperparameters.anchored

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.release(row)


class Replay(TurnLevel):
    """Turn how much is trained on data of earlier phases."""

    hyperparameter = "replay"

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level and, for more, older data."""
        state = run.states[row]
        return super().allowed(run, row) and (self.by < 0 or bool(state.old_at(state.share)))


@actions.register("replay_more")
class ReplayMore(Replay):
    """A larger share of the sequences from data of earlier phases (Robins 1995)."""

    by = 1


@actions.register("replay_less")
class ReplayLess(Replay):
    """A smaller share of the sequences from data of earlier phases."""

    by = -1
