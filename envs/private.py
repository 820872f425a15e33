"""Language modelling with differential privacy: each step costs some, and what is spent does not come back.

See `llmo/mdp/private_instances.py` for what an instance draws. It needs the extra `privacy`.
"""

from __future__ import annotations

from llmo.mdp.private_instances import build_private_problem, draw_private_instance
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

MENU = (
    "keep", "rate_x0.2", "rate_x0.5", "rate_x2", "rate_x5", "rate_default", "rate_decay", "regularise_more",
    "regularise_less", "rollback", "load_averaged", "momentum_more", "momentum_less", "memory_more", "memory_less",
    "clip_more", "clip_less", "warm_restart", "freeze_more", "freeze_less", "swa_collect", "swa_load", "noise_up",
    "noise_down",
)  # fmt: skip
"""What works on gradients that were clipped one by one, and adds no pass that is not accounted for."""


@environments.register("llmo/Private-v0")
def private() -> EnvSpec:
    """Adapt a small language model within a budget of privacy."""
    return EnvSpec("llmo/Private-v0", MENU, draw_private_instance, build_private_problem)
