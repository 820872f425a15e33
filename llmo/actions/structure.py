"""Change the size of the model in training: drop parts of it, bring them back, become a smaller student of it.

A model grows to what its architecture was at first, no further. All weights must be trained, in a Llama or a GPT-2
(whose heads stay); a budget of privacy, pruned weights that would have to grow, and several processes rule it out.
"""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.registry import actions


@actions.register("block_remove")
class BlockRemove(Action):
    """Drop the block without which validation is best (SLEB, Song et al. 2024); trying each is charged."""

    def allowed(self, run: Run, row: int) -> bool:
        """While there is another block, and the budget pays for trying."""
        return run.can_remove_block(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.remove_block(row)


@actions.register("block_add")
class BlockAdd(Action):
    """Bring a block back as a copy of the one below that adds nothing at first (LLaMA Pro, Wu et al. 2024)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While one is absent, and the budget pays for validating the whole model."""
        return run.can_grow(row) and len(run.states[row].structure.blocks) > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.add_block(row)


@actions.register("units_prune")
class UnitsPrune(Action):
    """Drop a quarter of each block's feed-forward units, those of least norm (Li et al. 2017)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While a quarter of them is left afterwards."""
        return run.can_prune_units(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.prune_units(row)


@actions.register("units_widen")
class UnitsWiden(Action):
    """Bring a quarter of the feed-forward units back, with output weights of zero (Net2Net, Chen et al. 2016)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While some are absent, and the budget pays for validating the whole model."""
        return run.can_grow(row) and len(run.states[row].structure.units) > 0

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.widen_units(row)


@actions.register("heads_prune")
class HeadsPrune(Action):
    """Drop the attention heads of each block that matter least, few as can be (Michel et al. 2019); it is charged."""

    def allowed(self, run: Run, row: int) -> bool:
        """While each block can have fewer heads, and the budget pays for a batch."""
        return run.can_prune_heads(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.prune_heads(row)


@actions.register("student_smaller")
class StudentSmaller(Action):
    """Become a student of the best weights so far, half as wide inside and a block less deep (Sanh et al. 2019)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While the model has been validated, and can become smaller."""
        return run.can_teach_smaller(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.become_student(row)
