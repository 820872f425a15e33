"""Environments with the whole menu: llmo/LanguageModel-v1's instances, and fine-tuning of every kind on dirty data."""

from __future__ import annotations

from llmo.actions.menu import CLASSIFYING, WHOLE_MENU
from llmo.mdp.instances import draw_rescaled_instance
from llmo.mdp.mixed_instances import build_dirty_problem, draw_dirty_instance, mixed_template
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/LanguageModel-Full-v0")
def full_language_model() -> EnvSpec:
    """Adapt a small language model to a domain of text, with every action that can apply there."""
    # Nothing is older than its sources, no text is broken or repeated, nothing is labelled, nothing private.
    closed = ("replay", "clean", "pseudo", "noise", *CLASSIFYING)
    menu = tuple(name for name in WHOLE_MENU if not name.startswith(closed))
    return EnvSpec("llmo/LanguageModel-Full-v0", menu, draw_rescaled_instance, build_problem)


@environments.register("llmo/FineTune-Full-v0")
def full_fine_tune() -> EnvSpec:
    """Fine-tune small models for every kind of task on data that may be dirty, with every action that can apply."""
    menu = tuple(name for name in WHOLE_MENU if not name.startswith(("replay", "noise")))
    return EnvSpec("llmo/FineTune-Full-v0", menu, draw_dirty_instance, build_dirty_problem, model=mixed_template)
