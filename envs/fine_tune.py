"""Fine-tuning for anything: language models, classification, tagging, sequence to sequence; mostly from one source.

See `llmo/mdp/mixed_instances.py` for what an instance draws: what policies meet in `llmo improve`.
"""

from __future__ import annotations

from llmo.actions.menu import MENU
from llmo.mdp.mixed_instances import (
    build_mixed_problem,
    draw_general_instance,
    draw_longer_instance,
    draw_mixed_instance,
    mixed_template,
)
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/FineTune-v0")
def fine_tune() -> EnvSpec:
    """Fine-tune small models for every kind of task."""
    return EnvSpec("llmo/FineTune-v0", MENU, draw_mixed_instance, build_mixed_problem, model=mixed_template)


@environments.register("llmo/FineTune-v2")
def longer() -> EnvSpec:
    """Fine-tune as in llmo/FineTune-v0: larger budgets, at times larger batches, half the time a rate that is right."""
    return EnvSpec("llmo/FineTune-v2", MENU, draw_longer_instance, build_mixed_problem, model=mixed_template)


@environments.register("llmo/General-v0")
def general() -> EnvSpec:
    """llmo/LanguageModel-v1 and llmo/FineTune-v2 by turns: for a policy that is to be good at both."""
    return EnvSpec("llmo/General-v0", MENU, draw_general_instance, build_mixed_problem, model=mixed_template)
