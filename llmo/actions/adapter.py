"""Swap what is trained: all weights, those of the upper layers, or an adapter."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.adapter_kinds import KINDS, rescalable
from llmo.engine.layout import MAX_RANK
from llmo.engine.run import Run
from llmo.engine.structure import WHOLE_MODEL
from llmo.hyperparameters import VIRTUAL, Adapter
from llmo.registry import actions


@actions.register("adapter_lora")
class AdapterLora(Action):
    """Freeze the weights and train a fresh LoRA adapter (Hu et al. 2021)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While something else is trained."""
        return run.states[row].adapter != "lora"

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.fresh_adapter(row)


@actions.register("adapter_full")
class AdapterFull(Action):
    """Merge the adapter, or drop virtual tokens, and train all weights."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter is on, and what it is on can be trained."""
        state = run.states[row]
        return state.rank > 0 and not state.hyperparameters.quantised

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.merge_adapter(row)


@actions.register("adapter_merge")
class AdapterMerge(Action):
    """Merge the adapter into the base and start a fresh one (ReLoRA, Lialin et al. 2023)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter is on that can be merged, and what it is on can be trained."""
        state = run.states[row]
        return state.rank > 0 and state.adapter not in VIRTUAL and not state.hyperparameters.quantised

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.fresh_adapter(row, run.states[row].adapter)


@actions.register("adapter_rank_up")
class AdapterRankUp(Action):
    """Double the adapter's rank, keeping what it has learned."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter on which new factors can be put is on and has room."""
        state = run.states[row]
        return 0 < state.rank < MAX_RANK and state.adapter in KINDS and KINDS[state.adapter].grows

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.grow_adapter(row)


class FreshAdapter(Action):
    """Freeze the weights and train a fresh adapter of another kind.

    Attributes:
        adapter: Which.
    """

    adapter: Adapter

    def allowed(self, run: Run, row: int) -> bool:
        """While something else is trained, on weights of its own, which can be trained."""
        state = run.states[row]
        own = not run.frozen and run.ranks is None and not state.hyperparameters.quantised
        return own and state.adapter != self.adapter

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.fresh_adapter(row, self.adapter)


@actions.register("adapter_dora")
class AdapterDora(FreshAdapter):
    """Freeze the weights and train a fresh DoRA adapter: magnitudes and directions apart (Liu et al. 2024)."""

    adapter = "dora"

    def allowed(self, run: Run, row: int) -> bool:
        """While something else is trained, in a whole model: what is absent has no direction."""
        return super().allowed(run, row) and run.states[row].structure == WHOLE_MODEL


@actions.register("adapter_ia3")
class AdapterIa3(FreshAdapter):
    """Freeze the weights and train scales of keys, values and feed-forward inputs (IA3, Liu et al. 2022)."""

    adapter = "ia3"

    def allowed(self, run: Run, row: int) -> bool:
        """While something else is trained, in an architecture whose layers PEFT knows and that have no biases."""
        return super().allowed(run, row) and rescalable(run.layout)


@actions.register("adapter_adalora")
class AdapterAdaLora(FreshAdapter):
    """Freeze the weights and train a fresh AdaLoRA adapter, whose ranks differ by layer (Zhang et al. 2023)."""

    adapter = "adalora"


class FreshVirtual(FreshAdapter):
    """Freeze the weights and train virtual tokens before every sequence; see `llmo/engine/virtual.py`."""

    def allowed(self, run: Run, row: int) -> bool:
        """While something else is trained, for one task and not in private, by a whole decoder whose rows have room."""
        state = run.states[row]
        room = run.layout.virtual < run.layout.width and state.problem.privacy is None
        plain = state.structure == WHOLE_MODEL and not state.hyperparameters.auxiliary
        return room and plain and super().allowed(run, row)


@actions.register("adapter_prompt")
class AdapterPrompt(FreshVirtual):
    """Freeze the weights and train embeddings of virtual tokens (prompt tuning, Lester et al. 2021)."""

    adapter = "prompt"


@actions.register("adapter_prefix")
class AdapterPrefix(FreshVirtual):
    """Freeze the weights and train keys and values of virtual tokens (prefix tuning, Li and Liang 2021)."""

    adapter = "prefix"


@actions.register("adapter_rank_down")
class AdapterRankDown(Action):
    """Halve the adapter's rank, keeping as much of what it has learned as that can hold; AdaLoRA's over all layers."""

    def allowed(self, run: Run, row: int) -> bool:
        """While an adapter with factors is on and has more than one."""
        return run.ranks is None and run.states[row].rank > 1

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.shrink_adapter(row)


@actions.register("freeze_more")
class FreezeMore(Action):
    """Stop training the embeddings, then twice as many of the lowest blocks (Howard and Ruder 2018)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While all weights are trained, no block is absent, and the last one is not the only one left."""
        state = run.states[row]
        whole = state.rank == 0 and run.ranks is None and not state.structure.blocks
        return whole and state.hyperparameters.frozen < len(run.layout.begins)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        frozen = run.states[row].hyperparameters.frozen
        run.freeze(row, min(len(run.layout.begins), max(1, 2 * frozen)))


@actions.register("freeze_less")
class FreezeLess(Action):
    """Train again half of the lowest blocks that were frozen."""

    def allowed(self, run: Run, row: int) -> bool:
        """While some are frozen."""
        return run.states[row].hyperparameters.frozen > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, frozen=run.states[row].hyperparameters.frozen // 2)
