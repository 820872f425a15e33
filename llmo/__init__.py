"""llmo learns how to train language models.

A training run is a Gymnasium environment: the state is the run's metrics, an action is one improvement, the reward
is validation gain, and an agent, a hand rule or PPO, decides. Importing this package imports no heavy library.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from llmo.catalog import make_agent
    from llmo.catalog.gym_ids import make_env
    from llmo.errors import LlmoError
    from llmo.evaluation.own.api import improve
    from llmo.trainer.callback import TrainerCallback

__version__ = "0.1.0"
__all__ = ["LlmoError", "TrainerCallback", "__version__", "improve", "make_agent", "make_env"]

_HOMES = {
    "LlmoError": "llmo.errors",
    "TrainerCallback": "llmo.trainer.callback",
    "improve": "llmo.evaluation.own.api",
    "make_agent": "llmo.catalog",
    "make_env": "llmo.catalog.gym_ids",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _WhenGymnasiumComes:
    """An import hook that registers llmo's environments as soon as Gymnasium is imported, for `gym.make`.

    Gymnasium 1.0 dropped entry points, and importing it here would make `llmo --help` wait half a second for nothing.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register_environments()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register_environments() -> None:
    importlib.import_module("llmo.catalog.gym_ids").register_ids()


if "gymnasium" in sys.modules:
    _register_environments()
elif not any(type(finder).__name__ == _WhenGymnasiumComes.__name__ for finder in sys.meta_path):
    import importlib.util

    sys.meta_path.insert(0, _WhenGymnasiumComes())
