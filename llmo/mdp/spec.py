"""What an environment is made of: how problems are drawn and built, and which actions are on the menu."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmo import catalog
from llmo.actions.action import Action
from llmo.actions.menu import MENU
from llmo.agent import Space
from llmo.diagnostics.features import NAMES, WHOLE_NAMES
from llmo.engine.state import Problem
from llmo.errors import LlmoError
from llmo.mdp.instances import Instance

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class EnvSpec:
    """One environment. A file in `envs/` registers a function that gives one.

    Attributes:
        name: The registered id, such as ``"llmo/LanguageModel-v0"``.
        menu: Names of the actions, in the order of their indices; ``"keep"`` is among them.
        draw: ``(split, index, budget scale)`` to an instance.
        build: An instance to the problem that the engine trains.
        frozen_base: An instance to the name of the pre-trained model whose frozen weights its run shares with others;
            empty where every run trains weights of its own.
        model: An instance to the model that its run trains, and whose weights it shares if the base is frozen; by
            default the one of the instance's shape, or of the frozen base's name.
        data: Folder whose text is learned; empty where the text is that of every Python.
        actions: The actions themselves, made from the menu.

    Raises:
        LlmoError: The menu names an action that nobody has registered.
    """

    name: str
    menu: tuple[str, ...]
    draw: Callable[[str, int, float], Instance]
    build: Callable[[Instance], Problem]
    frozen_base: Callable[[Instance], str] = lambda instance: ""
    model: Callable[[Instance], PreTrainedModel] | None = None
    data: str = ""
    actions: tuple[Action, ...] = field(init=False)

    def __post_init__(self) -> None:
        actions = tuple(catalog.get("actions", name)() for name in self.menu)
        object.__setattr__(self, "actions", actions)
        self.space.action("keep")

    @property
    def space(self) -> Space:
        """Names of the actions and of the observation's entries: more of them with more than the core menu."""
        return Space(self.menu, NAMES if set(self.menu) <= set(MENU) else WHOLE_NAMES)


def env_spec(name: str) -> EnvSpec:
    """The spec of a registered environment.

    Args:
        name: Its registered name; after a colon a folder, in environments that can learn the text of one.

    Raises:
        LlmoError: No such environment, or it cannot learn from a folder.
    """
    known, _, data = name.partition(":")
    factory = catalog.get("envs", known)
    if data and "data" not in inspect.signature(factory).parameters:
        raise LlmoError("environment with data", name, f"{known} alone")
    spec: EnvSpec = factory(data) if data else factory()
    return spec
