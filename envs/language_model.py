"""Causal language-model adaptation on the text that every Python carries.

A small Llama, from scratch or pre-trained on another domain, learns a target domain from three anonymous sources whose
quality may change without notice, under a budget of FLOPs. In version 1 the scale of the weights is unknown, and with
it the best rate. See `llmo/mdp/instances.py` for what an instance draws.
"""

from __future__ import annotations

from functools import partial

from llmo.actions.menu import MENU
from llmo.mdp.instances import draw_instance, draw_rescaled_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments
from llmo.tasks.own_text import load_folder


@environments.register("llmo/LanguageModel-v0")
def language_model() -> EnvSpec:
    """Adapt a small language model to a domain of text."""
    return EnvSpec("llmo/LanguageModel-v0", MENU, draw_instance, build_problem)


@environments.register("llmo/LanguageModel-v1")
def rescaled_language_model(data: str = "") -> EnvSpec:
    """The same with weights of an unknown scale: the default rate may be wrong by a factor of 8.

    Args:
        data: Folder with `train.txt`, `valid.txt` and `test.txt`, whose text is the target domain of every instance.
    """
    if not data:
        return EnvSpec("llmo/LanguageModel-v1", MENU, draw_rescaled_instance, build_problem)
    load_folder(data)
    draw = partial(draw_rescaled_instance, folder=data)
    return EnvSpec(f"llmo/LanguageModel-v1:{data}", MENU, draw, build_problem, data=data)
