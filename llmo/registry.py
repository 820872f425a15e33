"""Names for everything that plugs in: environments, agents, actions, tasks and experiments."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from llmo.errors import LlmoError

T = TypeVar("T")
E = TypeVar("E")

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


def valid_name(what: str, name: str) -> str:
    """The name itself, if it may become part of a path: it can neither leave its folder nor hide in it.

    Args:
        what: What is named, for the error.
        name: Letters, digits and ``_ - .``, in parts separated by ``/`` that begin with a letter, a digit or ``_``.

    Raises:
        LlmoError: The name breaks this rule.
    """
    if NAME.fullmatch(name) is None or ".." in name:
        rule = "letters, digits and _-./, each part beginning with a letter, a digit or _, without '..'"
        raise LlmoError(f"name of {what}", name, rule)
    return name


class Registry(Generic[T]):
    """Names of one kind of plug-in, each with the class or function that registered under it.

    Args:
        kind: What is registered, in the singular, such as ``"agent"``: the word that errors use.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def register(self, name: str) -> Callable[[E], E]:
        """A decorator that registers a class or a function and returns it unchanged.

        Raises:
            LlmoError: The name is malformed, or another class or function has it. The same one, imported again, may.
        """
        valid_name(self.kind, name)

        def add(entry: E) -> E:
            held = self._entries.get(name)
            if held is not None and _origin(held) != _origin(entry):
                raise LlmoError(f"name of {self.kind}", name, f"a name that is free: {_origin(held)} has this one")
            self._entries[name] = cast(T, entry)
            return entry

        return add

    def get(self, name: str) -> T:
        """What is registered under a name.

        Raises:
            LlmoError: Nothing is; the error has the nearest name.
        """
        if name not in self._entries:
            raise LlmoError(self.kind, name, self.names())
        return self._entries[name]

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._entries)

    def summary(self, name: str) -> str:
        """First line of the docstring of what is registered under a name; empty without one."""
        text: str = getattr(self.get(name), "__doc__", None) or ""
        return text.strip().partition("\n")[0]


def _origin(entry: object) -> str:
    """Where a class or function was defined, which importing its module again does not change."""
    described = entry if hasattr(entry, "__qualname__") else type(entry)
    return f"{described.__module__}.{described.__qualname__}"


environments: Registry[Callable[..., Any]] = Registry("environment")
agents: Registry[Callable[..., Any]] = Registry("agent")
actions: Registry[Callable[..., Any]] = Registry("action")
tasks: Registry[Callable[..., Any]] = Registry("task")
experiments: Registry[Callable[..., Any]] = Registry("experiment")
