"""llmo/LanguageModel-v1 with the whole menu: the same instances, index by index, and every action there is."""

from __future__ import annotations

from llmo.actions.menu import WHOLE_MENU
from llmo.mdp.instances import draw_rescaled_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/LanguageModel-Full-v0")
def full_language_model() -> EnvSpec:
    """Adapt a small language model to a domain of text, with every action that can apply there."""
    # Nothing is older than its sources.
    menu = tuple(name for name in WHOLE_MENU if not name.startswith("replay"))
    return EnvSpec("llmo/LanguageModel-Full-v0", menu, draw_rescaled_instance, build_problem)
