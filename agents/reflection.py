"""The reflection rule: evaluate, name the cause, choose the remedy, keep it only if it paid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from llmo.diagnostics.causes import diagnose
from llmo.errors import LlmoError
from llmo.registry import agents
from llmo.rules import Rule, View, share


@dataclass
class Notes:
    """What is remembered of one run.

    Attributes:
        begun: Whether the rate has been set.
        remedy: What is on trial; empty for nothing.
        left: Environment steps until it is judged.
        failed: Remedies that did not pay.
    """

    begun: bool = False
    remedy: str = ""
    left: int = 0
    failed: set[str] = field(default_factory=set)


@agents.register("reflection")
class Reflection(Rule[Notes]):
    """Names the cause, tries a remedy, and rolls back what did not pay.

    It begins at the default rate, whatever was drawn, and ends with a linear decay.

    Args:
        margin: Log ratio of the loss to its best above which a remedy has not paid.
        patience: Environment steps after which a remedy is judged.
        decay_from: Share of the budget after which the rate decays linearly to zero.

    Raises:
        LlmoError: A value is out of range.
    """

    grid = {
        "margin": (0.0, 0.005, 0.02, 0.05, 0.1),
        "patience": (1, 2, 3, 4),
        "decay_from": (0.15, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0),
    }

    def __init__(self, margin: float = 0.02, patience: int = 2, decay_from: float = 0.5) -> None:
        self.margin, self.decay_from = share("margin", margin), share("decay_from", decay_from)
        if patience < 1:
            raise LlmoError("patience", patience, "at least 1")
        self.patience = patience

    def begin(self, random: np.random.Generator) -> Notes:
        """Nothing is known yet."""
        return Notes()

    def choose(self, view: View, memory: Notes) -> tuple[str, str]:
        """See `Rule.choose`."""
        if not memory.begun:
            memory.begun = True
            return view.or_keep("rate_default"), f"the drawn rate is {10 ** view.value('rate'):.2g} of the default"
        worse = view.value("best_gap") / 20
        if memory.remedy:
            memory.left -= 1
            if memory.left > 0:
                return "keep", f"{memory.remedy} is still on trial, the loss is {worse:.1%} above its best"
            remedy, memory.remedy = memory.remedy, ""
            if worse > self.margin:
                memory.failed.add(remedy)
                return view.or_keep("rollback"), f"{remedy} did not pay: the loss is {worse:.1%} above its best"
        if view.spent >= self.decay_from and view.allows("rate_decay"):
            return "rate_decay", f"{view.spent:.0%} of the budget is spent"
        if view.value("distillation_teacher") > 0 and view.value("teacher_gap") <= 0:
            return view.or_keep("distil_off"), f"the teacher is passed by {-view.value('teacher_gap') / 5:.1%}"
        cause, evidence = diagnose(view.observation)
        for remedy in _remedies(cause, view):
            if view.allows(remedy) and remedy not in memory.failed:
                memory.remedy, memory.left = remedy, self.patience
                return remedy, f"{cause}: {evidence}"
        return "keep", f"{cause}: {evidence}" + ("" if cause == "none" else ", and no remedy is left")


def _remedies(cause: str, view: View) -> Iterator[str]:
    """What may help against a cause, the likeliest first; where the menu is the core, what it has of them."""
    match cause:
        case "instability":
            yield "rate_x0.5" if view.value("rate") > -0.3 else "rate_default"
            yield from ("clip_more", "load_averaged")
        case "optimisation":
            yield from ("rate_default", "rate_x2")
        case "overfitting":
            yield from ("regularise_more", "augment_mask", "augment_noise", "distil_averaged", "adapter_lora")
            yield from ("smooth_more", "perturb_noise", "freeze_more")
        case "data quantity":
            yield from ("augment_noise", "augment_mask", "augment_swap", "regularise_more", "distil_averaged")
        case "data quality":
            yield "source_tracking"
            gaps = [abs(gap) for gap in view.source_gaps]
            yield f"source_{gaps.index(min(gaps)) + 1}"
            yield from ("select_clean", "distil_averaged")
        case "forgetting":
            yield from ("replay_more", "anchor_set", "rate_x0.5", "soup_load")
        case "capacity":
            if view.value("teacher_gap") > 0:
                yield "distil_teacher"
            yield from ("adapter_full", "adapter_rank_up", "rate_x2", "load_averaged", "regularise_less")
