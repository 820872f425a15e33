"""Makes llmo's environments known to `gymnasium.make`, without importing them before one is made."""

from __future__ import annotations

from typing import Any

from llmo.catalog import declared, get
from llmo.registry import environments

ENTRY_POINT = "llmo.mdp.env:make"
VECTOR_ENTRY_POINT = "llmo.mdp.vector_env:make"


def register_ids() -> None:
    """Register every environment that a plug-in file declares or a loaded plug-in has registered, but only once."""
    import gymnasium

    for name in sorted({*declared("envs"), *environments.names()}):
        if name not in gymnasium.registry:
            # No order enforcing: the environment itself refuses a step before reset, with an `LlmoError`.
            gymnasium.register(
                id=name,
                entry_point=ENTRY_POINT,
                vector_entry_point=VECTOR_ENTRY_POINT,
                order_enforce=False,
                kwargs={"name": name},
            )


def make_env(name: str, **parameters: Any) -> Any:
    """A new environment: `gymnasium.make` for any registered environment, strangers' plug-ins included.

    Args:
        name: Its registered name, such as ``"llmo/LanguageModel-v0"``.
        **parameters: Arguments of the environment and of `gymnasium.make`.

    Raises:
        LlmoError: No such environment.
    """
    import gymnasium

    get("envs", name)
    register_ids()
    return gymnasium.make(name, **parameters)
