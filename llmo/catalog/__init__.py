"""Finds plug-ins: the three folders, installed packages (entry points of group "llmo.plugins") and modules asked for.

The folders `envs`, `agents` and `experiments` lie beside `llmo` in a checkout and inside `llmo/catalog` in a wheel.
In both, `agents/plateau.py` is the module `llmo.catalog.agents.plateau`, so that `pip install llmo` never takes the
names of these folders from a user's own project.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from llmo import registry
from llmo.catalog.declared import Declaration, declarations
from llmo.catalog.tuned import tuned_parameters
from llmo.errors import LlmoError

HERE = Path(__file__).parent
ROOT = HERE if (HERE / "envs").is_dir() else HERE.parents[1]
if ROOT != HERE:
    __path__.append(str(ROOT))

KINDS: dict[str, registry.Registry[Any]] = {
    "envs": registry.environments,
    "agents": registry.agents,
    "actions": registry.actions,
    "tasks": registry.tasks,
    "experiments": registry.experiments,
}
FOLDERS = {"envs": "environments", "agents": "agents", "experiments": "experiments"}
"""The plug-in folders, each with the name of the registry that its files import."""
PLUGINS_VARIABLE = "LLMO_PLUGINS"
"""Environment variable with the modules asked for, separated by commas: how worker processes learn of them."""


def load(kind: str) -> None:
    """Import everything that may register something of one kind; a second call does nothing.

    Args:
        kind: ``"envs"``, ``"agents"``, ``"actions"``, ``"tasks"`` or ``"experiments"``.

    Raises:
        LlmoError: No such kind, or a stranger's plug-in cannot be imported.
    """
    if kind not in KINDS:
        raise LlmoError("kind", kind, KINDS)
    package = f"llmo.catalog.{kind}" if kind in FOLDERS else f"llmo.{kind}"
    folder = ROOT / kind if kind in FOLDERS else HERE.parent / kind
    for module in sorted(module.name for module in pkgutil.iter_modules([str(folder)])):
        importlib.import_module(f"{package}.{module}")
    for entry in _installed_plugins():
        _import_plugin(entry.name, entry.module)
    for module in filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(",")):
        _import_plugin(module, module)


def get(kind: str, name: str) -> Any:
    """What is registered under a name, importing as little as possible: only its own file, where one declares it.

    Raises:
        LlmoError: No such kind or name, or a stranger's plug-in cannot be imported.
    """
    if kind not in KINDS:
        raise LlmoError("kind", kind, KINDS)
    if name not in KINDS[kind]:
        declaration = declared(kind).get(name) if kind in FOLDERS else None
        if declaration is not None:
            importlib.import_module(f"llmo.catalog.{kind}.{declaration.path.stem}")
        else:
            load(kind)
    return KINDS[kind].get(name)


@cache
def declared(kind: str) -> dict[str, Declaration]:
    """The names that the files of one plug-in folder register, sorted, found without importing any of them.

    Args:
        kind: ``"envs"``, ``"agents"`` or ``"experiments"``.
    """
    return declarations(ROOT / kind, FOLDERS[kind])


def use_plugin(module: str) -> None:
    """Import a module that registers plug-ins, here and in the worker processes that are started from here.

    Raises:
        LlmoError: It cannot be imported.
    """
    _import_plugin(module, module)
    modules = [name for name in os.environ.get(PLUGINS_VARIABLE, "").split(",") if name]
    if module not in modules:
        os.environ[PLUGINS_VARIABLE] = ",".join([*modules, module])


def make_agent(name: str, **parameters: Any) -> Any:
    """A new agent.

    Args:
        name: Its registered name.
        **parameters: Arguments of its class; what is left out has its tuned value, where it was tuned.

    Raises:
        LlmoError: No such agent, or it has no such parameter.
    """
    agent = get("agents", name)
    accepted = inspect.signature(agent).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        for parameter in parameters:
            if parameter not in accepted:
                raise LlmoError(f"parameter of {name}", parameter, accepted)
    return agent(**{**tuned_parameters(name), **parameters})


@cache
def _installed_plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="llmo.plugins"))


def _import_plugin(name: str, module: str) -> None:
    """Import a stranger's module; whatever it raises becomes an error that names it."""
    try:
        importlib.import_module(module)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise LlmoError("plug-in", name, f"a module that can be imported ({problem})") from error
