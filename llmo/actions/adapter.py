"""Swap what is trained: all weights, or LoRA factors on every linear layer (Hu et al. 2021)."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.layout import MAX_RANK
from llmo.engine.run import Run
from llmo.registry import actions


@actions.register("adapter_lora")
class AdapterLora(Action):
    """Freeze the weights and train a fresh LoRA adapter."""

    def allowed(self, run: Run, row: int) -> bool:
        """While all weights are trained."""
        return run.states[row].rank == 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.fresh_adapter(row)


@actions.register("adapter_full")
class AdapterFull(Action):
    """Merge the adapter and train all weights."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter is on."""
        return run.states[row].rank > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.merge_adapter(row)


@actions.register("adapter_merge")
class AdapterMerge(Action):
    """Merge the adapter into the base and start a fresh one (ReLoRA, Lialin et al. 2023)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter is on."""
        return run.states[row].rank > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.fresh_adapter(row)


@actions.register("adapter_rank_up")
class AdapterRankUp(Action):
    """Double the adapter's rank, keeping what it has learned."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter is on and has room."""
        return 0 < run.states[row].rank < MAX_RANK

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.grow_adapter(row)
