"""A user's own model and data: `llmo train --model M --data D --task T` learns a policy here.

See `llmo/mdp/own.py` for what an instance draws.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from llmo.mdp.own import own_spec
from llmo.mdp.own_source import example_own, read_own
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

NAME = "llmo/Own-v0"


@environments.register("llmo/Own-v0")
def own(data: str = "") -> EnvSpec:
    """A model and data of yours.

    Args:
        data: File that says which, as `llmo train --model` writes it; by default a small classifier of docstrings.
    """
    return _spec(data)


@lru_cache(maxsize=4)
def _spec(data: str) -> EnvSpec:
    if not data:
        return replace(own_spec(example_own()), name=NAME)
    return replace(own_spec(read_own(Path(data))), name=f"{NAME}:{data}")
