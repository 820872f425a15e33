"""Average weights: over the ends of intervals, or of what has been kept."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import VIRTUAL
from llmo.registry import actions


@actions.register("swa_collect")
class SwaCollect(Action):
    """Begin a mean of the weights at the end of every interval (SWA, Izmailov et al. 2018)."""

    def allowed(self, run: Run, row: int) -> bool:
        """While none is being collected, of weights without virtual tokens."""
        return run.states[row].collected == 0 and run.states[row].adapter not in VIRTUAL

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.collect(row)


@actions.register("swa_load")
class SwaLoad(Action):
    """Replace the weights by that mean, which ends with it."""

    def allowed(self, run: Run, row: int) -> bool:
        """Once it holds two ends of intervals."""
        return run.states[row].collected > 1 and run.mixes(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.load_collected(row)


@actions.register("soup_load")
class SoupLoad(Action):
    """The best weights, mixed with others that were kept as long as that validates better (Wortsman et al. 2022).

    Candidates are the current weights, the running average and the registers; their validation passes are charged.
    """

    def allowed(self, run: Run, row: int) -> bool:
        """When the best are others than the current ones or something is in a register, and the budget pays for it."""
        return run.can_pay_soup(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.load_soup(row)


@actions.register("adapter_average")
class AdapterAverage(Action):
    """Add the adapter to that of the best validation, each with half of its weight, at the same rank.

    It is what PEFT's `add_weighted_adapter` calls ``svd``.
    """

    def allowed(self, run: Run, row: int) -> bool:
        """While both are LoRA adapters on the same weights, and differ."""
        return run.can_average_adapters(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.average_adapters(row)
