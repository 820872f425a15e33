"""llmo/LanguageModel-v1 with something taken away, to see what it is worth: the same instances, index by index."""

from __future__ import annotations

from dataclasses import replace

from llmo.actions.menu import MENU
from llmo.mdp.instances import Instance, draw_rescaled_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


def _without(name: str, closed: tuple[str, ...] = (), neutral: tuple[str, ...] = ()) -> EnvSpec:
    """The environment without some actions, by how their names begin, and without some groups of features."""
    menu = tuple(action for action in MENU if not action.startswith(closed))

    def draw(part: str, index: int, budget_scale: float = 1.0) -> Instance:
        full = draw_rescaled_instance(part, index, budget_scale)
        return replace(full, neutral=(*full.neutral, *neutral))

    return EnvSpec(name, menu, draw, build_problem)


@environments.register("llmo/LanguageModel-NoData-v1")
def no_data() -> EnvSpec:
    """Without actions on the data: sources and augmentation."""
    return _without("llmo/LanguageModel-NoData-v1", closed=("source", "augment"))


@environments.register("llmo/LanguageModel-NoSwaps-v1")
def no_swaps() -> EnvSpec:
    """Without adapters, distillation, roll-back and averaged weights."""
    return _without("llmo/LanguageModel-NoSwaps-v1", closed=("adapter", "distil", "rollback", "load"))


@environments.register("llmo/LanguageModel-NoGradients-v1")
def no_gradients() -> EnvSpec:
    """Without diagnostics of gradients and updates."""
    return _without("llmo/LanguageModel-NoGradients-v1", neutral=("gradient",))


@environments.register("llmo/LanguageModel-NoHistory-v1")
def no_history() -> EnvSpec:
    """Without memory of the last two actions."""
    return _without("llmo/LanguageModel-NoHistory-v1", neutral=("actions",))
