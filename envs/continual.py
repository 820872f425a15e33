"""Language modelling on text that shifts to another domain under way, with every action there is.

See `llmo/mdp/continual_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.actions.menu import CLASSIFYING, WHOLE_MENU
from llmo.mdp.continual_instances import draw_continual_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/Continual-v0")
def continual() -> EnvSpec:
    """Learn one domain of text after the other, and forget none."""
    closed = ("clean", "pseudo", "noise", *CLASSIFYING)
    menu = tuple(name for name in WHOLE_MENU if not name.startswith(closed))
    return EnvSpec("llmo/Continual-v0", menu, draw_continual_instance, build_problem)
