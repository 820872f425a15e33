"""Which of the three sources is trained on: soft choices, each source keeps a floor."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.engine.run import Run
from llmo.hyperparameters import Mixing
from llmo.registry import actions


class MixSources(Action):
    """Change how the sources are mixed.

    Attributes:
        mixing: The mode it sets.
    """

    mixing: Mixing

    def allowed(self, run: Run, row: int) -> bool:
        """When another mode is on."""
        return run.states[row].hyperparameters.mixing != self.mixing

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, mixing=self.mixing)


@actions.register("source_1")
class FocusFirst(MixSources):
    """Nine tenths of the sequences from source 1."""

    mixing = "source_1"


@actions.register("source_2")
class FocusSecond(MixSources):
    """Nine tenths of the sequences from source 2."""

    mixing = "source_2"


@actions.register("source_3")
class FocusThird(MixSources):
    """Nine tenths of the sequences from source 3."""

    mixing = "source_3"


@actions.register("source_uniform")
class Uniform(MixSources):
    """All three sources alike."""

    mixing = "uniform"


@actions.register("source_tracking")
class Tracking(MixSources):
    """Favour the sources whose training loss is nearest to the validation loss, again after each interval."""

    mixing = "tracking"
