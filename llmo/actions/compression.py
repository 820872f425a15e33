"""Smaller weights: prune by magnitude, round to eight bits. What it saves is measured as `size`."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import LEVELS
from llmo.registry import actions


@actions.register("prune_more")
class PruneMore(Action):
    """Set more of the smallest weights of the matrices to zero, up to nine tenths (Han et al. 2015)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While all weights are trained, and there is such a level."""
        state = run.states[row]
        whole = state.rank == 0 and not run.frozen and run.ranks is None
        return whole and state.hyperparameters.sparsity + 1 < len(LEVELS["sparsity"])

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.prune_more(row)


@actions.register("quantise_int8")
class QuantiseInt8(Action):
    """Round the linear layers to eight bits and train a LoRA adapter on them (Dettmers et al. 2023, "QLoRA")."""

    def allowed(self, run: Run, row: int) -> bool:
        """While all weights are trained."""
        return run.states[row].rank == 0 and not run.frozen and run.ranks is None

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.quantise(row)
