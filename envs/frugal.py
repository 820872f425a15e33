"""Language modelling where compute, size and speed have a price: prune, round, stop in time.

See `llmo/mdp/frugal_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.actions.menu import CLASSIFYING, WHOLE_MENU
from llmo.mdp.frugal_instances import draw_frugal_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/Frugal-v1")
def frugal() -> EnvSpec:
    """Adapt a small language model at the least price of compute, size, speed and loss together."""
    closed = ("replay", "clean", "pseudo", "noise", *CLASSIFYING)
    menu = tuple(name for name in WHOLE_MENU if not name.startswith(closed))
    return EnvSpec("llmo/Frugal-v1", (*menu, "stop"), draw_frugal_instance, build_problem)
