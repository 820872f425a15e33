"""Causal language-model adaptation on the text that every Python carries.

A small Llama, from scratch or pre-trained on another domain, learns a target domain from three anonymous sources whose
quality may change without notice, under a budget of FLOPs. See `llmo/mdp/instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.instances import draw_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

MENU = (
    "keep",
    "rate_x0.2",
    "rate_x0.5",
    "rate_x2",
    "rate_x5",
    "rate_default",
    "rate_decay",
    "regularise_more",
    "regularise_less",
    "source_1",
    "source_2",
    "source_3",
    "source_uniform",
    "source_tracking",
    "augment_off",
    "augment_noise",
    "augment_mask",
    "adapter_full",
    "adapter_lora",
    "adapter_rank_up",
    "adapter_merge",
    "distil_teacher",
    "distil_averaged",
    "distil_off",
    "rollback",
    "load_averaged",
)


@environments.register("llmo/LanguageModel-v0")
def language_model() -> EnvSpec:
    """Adapt a small language model to a domain of text."""
    return EnvSpec("llmo/LanguageModel-v0", MENU, draw_instance, build_problem)
