"""Learn from what the model itself says: text that it writes, labels that it is sure of."""

from __future__ import annotations

from llmo.actions.action import Action
from llmo.actions.levels import TurnLevel
from llmo.engine.generating import Decoding
from llmo.engine.run import Run
from llmo.registry import actions


class Write(Action):
    """Let the best weights continue training text; the likelier half without repetition is trained on from now on.

    It takes the place of what was written before. All passes are charged.

    Attributes:
        decoding: How a next token is chosen.
    """

    decoding: Decoding

    def allowed(self, run: Run, row: int) -> bool:
        """Once a run that learns running text was evaluated, while the budget pays for writing."""
        return run.can_write(row)

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.write(row, self.decoding)


@actions.register("write_greedy")
class WriteGreedy(Write):
    """Train on own continuations by the likeliest token."""

    decoding = "greedy"


@actions.register("write_top_k")
class WriteTopK(Write):
    """Train on own continuations drawn from the 20 likeliest tokens (Fan et al. 2018)."""

    decoding = "top_k"


@actions.register("write_top_p")
class WriteTopP(Write):
    """Train on own continuations drawn from the likeliest tokens that hold 0.9 together (Holtzman et al. 2020)."""

    decoding = "top_p"


@actions.register("write_beam")
class WriteBeam(Write):
    """Train on own continuations found by a beam search."""

    decoding = "beam"


class Written(TurnLevel):
    """Turn how much is trained on what the model has written."""

    hyperparameter = "generated"

    def allowed(self, run: Run, row: int) -> bool:
        """While there is such a level, and something was written."""
        return run.rows[row].kept("generated") is not None and super().allowed(run, row)


@actions.register("written_more")
class WrittenMore(Written):
    """A larger share of the sequences from what the model has written."""

    by = 1


@actions.register("written_less")
class WrittenLess(Written):
    """A smaller share of the sequences from what the model has written."""

    by = -1


class PseudoLabels(Action):
    """Turn pseudo-labels on or off."""

    on: bool

    def allowed(self, run: Run, row: int) -> bool:
        """In classification and tagging, while they are not as wanted."""
        labelled = run.interface.kind in ("classification", "tagging") and run.interface.outputs > 1
        return labelled and run.states[row].hyperparameters.pseudo_labels != self.on

    def apply(self, run: Run, row: int) -> None:
        """See the class."""
        run.change(row, pseudo_labels=self.on)


@actions.register("pseudo_labels_on")
class PseudoLabelsOn(PseudoLabels):
    """Train on predictions of the best weights instead of labels where they are surer than 0.9 (Lee 2013)."""

    on = True


@actions.register("pseudo_labels_off")
class PseudoLabelsOff(PseudoLabels):
    """Train on the labels that were given."""

    on = False
