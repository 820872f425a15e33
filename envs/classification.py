"""Sequence classification: which part of the standard library a docstring belongs to.

See `llmo/mdp/labelled_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.labelled_instances import LabelledFamily
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

FAMILY = LabelledFamily(
    env="llmo/Classification-v0",
    examples="topics",
    task="classification",
    roles=("text", "label"),
    domain="docstrings",
    bases=("prose", "code"),
    context=48,
    scale=4,
    families=("llama",),
    stream=3,
)


@environments.register("llmo/Classification-v0")
def classification() -> EnvSpec:
    """Learn which part of the standard library a docstring belongs to."""
    return FAMILY.spec()
