"""Sequence classification: which part of the standard library a docstring belongs to.

See `llmo/mdp/labelled_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.labelled_instances import labelled_spec
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/Classification-v0")
def classification() -> EnvSpec:
    """Learn which part of the standard library a docstring belongs to."""
    return labelled_spec("llmo/Classification-v0", "classification")
