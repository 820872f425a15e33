"""Token classification: what each token of Python source is part of, a call, an attribute, a parameter and so on.

See `llmo/mdp/labelled_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.labelled_instances import LabelledFamily
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

FAMILY = LabelledFamily(
    env="llmo/Tagging-v0",
    examples="tags",
    task="tagging",
    roles=("tokens", "tags"),
    domain="code",
    bases=("prose", "code", "docstrings"),
    context=64,
    scale=2,
    families=("llama",),
    stream=4,
)


@environments.register("llmo/Tagging-v0")
def tagging() -> EnvSpec:
    """Learn what each token of Python source is part of."""
    return FAMILY.spec()
