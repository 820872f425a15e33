"""Token classification: what each token of Python source is part of, a call, an attribute, a parameter and so on.

See `llmo/mdp/labelled_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.labelled_instances import labelled_spec
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


@environments.register("llmo/Tagging-v0")
def tagging() -> EnvSpec:
    """Learn what each token of Python source is part of."""
    return labelled_spec("llmo/Tagging-v0", "tagging")
