"""Self-training: fine-tune, let the model write or label, keep what is sure, train on it, until that no longer gains.

Text as in Wang et al. 2023 ("Self-Instruct"), labels as in Lee 2013 ("Pseudo-label") and Yarowsky 1995.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import Rule, View, share

WRITING = ("write_top_p", "pseudo_labels_on")
"""How a round begins: a language model writes, other models label."""
ENDING = ("written_less", "pseudo_labels_off")


@dataclass
class Rounds:
    """What is remembered of one run.

    Attributes:
        begun: Whether the rate has been set.
        left: Environment steps until the round is judged; 0 between rounds.
        gained: Gain since the first measurement when the round began.
        over: Whether rounds no longer gain.
    """

    begun: bool = False
    left: int = 0
    gained: float = 0.0
    over: bool = False


@agents.register("self_training")
class SelfTraining(Rule[Rounds]):
    """Trains on what its own model says, in rounds, as long as the validation loss falls.

    It begins at the default rate and ends with a linear decay.

    Args:
        first: Share of the budget that is spent on the data alone.
        patience: Environment steps of a round.
        margin: Log gain that a round needs for another one to follow.
        decay_from: Share of the budget after which the rate decays linearly to zero.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "first": (0.2, 0.35, 0.5, 0.65),
        "patience": (1, 2, 3),
        "margin": (0.0, 0.005, 0.01, 0.02),
        "decay_from": (0.3, 0.5, 0.65, 0.8, 0.9, 1.0),
    }

    def __init__(self, first: float = 0.35, patience: int = 2, margin: float = 0.005, decay_from: float = 0.65) -> None:
        self.first, self.margin = share("first", first), share("margin", margin)
        self.decay_from = share("decay_from", decay_from)
        if patience < 1:
            raise LlmoError("patience", patience, "at least 1")
        self.patience = patience

    def begin(self, random: np.random.Generator) -> Rounds:
        """Nothing is known yet."""
        return Rounds()

    def choose(self, view: View, memory: Rounds) -> tuple[str, str]:
        """See `Rule.choose`."""
        if not memory.begun:
            memory.begun = True
            return view.or_keep("rate_default"), f"the drawn rate is {10 ** view.value('rate'):.2g} of the default"
        gained = view.value("gain_total") / 3
        if memory.left:
            memory.left -= 1
            if memory.left:
                return "keep", f"the round gains {gained - memory.gained:.1%} so far"
            if gained - memory.gained <= self.margin:
                memory.over = True
                end = next(filter(view.allows, ENDING), "keep")
                return end, f"the round gained {gained - memory.gained:.1%} only"
        elif memory.over and view.allows("written_less"):
            return "written_less", "nothing that was written is trained on any more"
        if view.spent >= self.decay_from and view.allows("rate_decay"):
            return "rate_decay", f"{view.spent:.0%} of the budget is spent"
        writing = next(filter(view.allows, WRITING), None)
        if view.spent >= self.first and not memory.over and writing:
            memory.left, memory.gained = self.patience, gained
            return writing, f"a round begins at {view.spent:.0%} of the budget"
        return "keep", "fine-tuning" if view.spent < self.first else "no other round"
