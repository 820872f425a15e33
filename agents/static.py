"""The best static setting: everything is set once, before the first step, as hyperparameter search does.

`llmo tune` draws settings by Optuna's tree-structured Parzen estimator (Akiba et al. 2019; Bergstra et al. 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmo.agent import KeepingAgent
from llmo.errors import LlmoError
from llmo.mdp.population import Population
from llmo.registry import agents
from llmo.rules import positive, share
from llmo.schedules import PEAKS

ACTIONS = {
    "tracking": "source_tracking",
    "token_noise": "augment_noise",
    "span_masking": "augment_mask",
    "teacher": "distil_teacher",
}
"""By mode, the action that would set it; the other modes are those that a run begins with."""


@agents.register("static")
class Static(KeepingAgent):
    """One setting for all instances, in force from the first optimizer step.

    Args:
        scratch: Rate from scratch, as a multiple of the default.
        pretrained: The same from pre-trained weights.
        decay_from: Share of the budget after which the rate decays linearly to zero; 1 for never.
        regularisation: Level of weight decay and dropout, 0 to 4.
        mixing: How the sources are mixed, ``uniform`` or ``tracking``.
        augmentation: ``off``, ``token_noise`` or ``span_masking``.
        distillation: ``off``, or ``teacher`` where there is one.

    Raises:
        LlmoError: A value is out of range.
    """

    trials = 48
    grid = {
        "scratch": PEAKS,
        "pretrained": PEAKS,
        "decay_from": (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0),
        "regularisation": (0, 1, 2, 3, 4),
        "mixing": ("uniform", "tracking"),
        "augmentation": ("off", "token_noise", "span_masking"),
        "distillation": ("off", "teacher"),
    }

    def __init__(
        self,
        scratch: float = 1.0,
        pretrained: float = 0.5,
        decay_from: float = 1.0,
        regularisation: int = 1,
        mixing: str = "uniform",
        augmentation: str = "off",
        distillation: str = "off",
    ) -> None:
        self.scratch, self.pretrained = positive("scratch", scratch), positive("pretrained", pretrained)
        self.decay_from = share("decay_from", decay_from)
        self.regularisation = regularisation
        self.modes = {"mixing": mixing, "augmentation": augmentation, "distillation": distillation}
        for name, value in {"regularisation": regularisation, **self.modes}.items():
            if value not in self.grid[name]:
                raise LlmoError(name, value, self.grid[name])

    def attach(self, population: Population, slots: Sequence[int]) -> None:
        """Set everything for which the menu has an action that is open.

        Args:
            population: What plays the runs.
            slots: Slot of each.
        """
        super().attach(population, slots)
        for slot in slots:
            run, mask = population.run_of(slot), population.mask(slot)
            allowed = {action for action, is_open in zip(self.space.actions, mask, strict=True) if is_open}
            settings: dict[str, Any] = {name: mode for name, mode in self.modes.items() if ACTIONS.get(mode) in allowed}
            if "regularise_more" in allowed:
                settings["regularisation"] = self.regularisation
            if "rate_decay" in allowed and self.decay_from < 1:
                settings["decay_from"] = self.decay_from
            peak = getattr(self, run.states[slot].problem.start)
            run.change(slot, learning_rate=peak * run.default_rate(slot), **settings)
