"""Turn the noise of private training; epsilon cannot be overdrawn, and no action gives any back."""

from __future__ import annotations

from llmo.actions.levels import TurnLevel
from llmo.engine.run import Run
from llmo.hyperparameters import LEVELS
from llmo.registry import actions


class Noise(TurnLevel):
    """Turn the noise multiplier."""

    hyperparameter = "noise"

    def allowed(self, run: Run, row: int) -> bool:
        """In private training, while there is such a level, with which the budget of privacy pays for a step."""
        state = run.states[row]
        privacy = state.problem.privacy
        if privacy is None or not super().allowed(run, row):
            return False
        level = LEVELS["noise"][state.hyperparameters.noise + self.by]
        return privacy.affordable(state.private_steps, level, state.problem.batch, 1) > 0


@actions.register("noise_up")
class NoiseUp(Noise):
    """More noise, so that a step costs less privacy (DP-SGD, Abadi et al. 2016)."""

    by = 1


@actions.register("noise_down")
class NoiseDown(Noise):
    """Less noise, so that a step learns more and costs more privacy."""

    by = -1
