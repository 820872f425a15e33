"""What tests of workers share."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmo import catalog
from llmo.registry import environments

PLUGIN = '''"""Short episodes, and a process that is out of memory once, where a file asks for it."""

import dataclasses
from pathlib import Path

import torch

from llmo.mdp.spec import env_spec
from llmo.registry import environments

HUNGRY = Path(__file__).with_name("hungry")


@environments.register("test/Short-v0")
def short():
    """Short episodes."""
    spec = env_spec("llmo/LanguageModel-v0")

    def draw(split, index, scale):
        return spec.draw(split, index, 0.2 * scale)

    def build(instance):
        if HUNGRY.exists():
            HUNGRY.unlink()
            torch.empty(2**50)
        return spec.build(instance)

    return dataclasses.replace(spec, name="test/Short-v0", draw=draw, build=build)
'''


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Plugs in the environment `test/Short-v0`, as `--plugin` does, for one file of tests; the folder of its file."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "short_episodes.py").write_text(PLUGIN)
    catalog.load("envs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
        patch.setenv(catalog.PLUGINS_VARIABLE, "short_episodes")
        patch.setattr(environments, "_entries", dict(environments._entries))
        catalog.load("envs")
        yield folder
    sys.modules.pop("short_episodes", None)


@pytest.fixture(autouse=True)
def plugins(no_plugins: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that a test starts has loaded what its file plugs in."""
    if "short" in request.fixturenames:
        monkeypatch.setenv(catalog.PLUGINS_VARIABLE, "short_episodes")


def rollout(env: Any, steps: int = 6) -> list[Any]:
    """All that random allowed moves show, from a reset on."""
    dice = np.random.default_rng(0)
    seen: list[Any] = [env.reset(), list(env.reset_infos)]
    for _ in range(steps):
        masks = env.action_masks()
        actions = np.array([dice.choice(np.flatnonzero(mask)) for mask in masks])
        seen += [masks, *env.step(actions), list(env.reset_infos)]
    return seen


@pytest.fixture(scope="session")
def play() -> Callable[..., list[Any]]:
    return rollout


@pytest.fixture(scope="session")
def alone() -> list[Any]:
    """What four slots show in one process, in short episodes with seed 3."""
    from llmo.mdp.sb3_env import PopulationVecEnv

    return rollout(PopulationVecEnv("llmo/LanguageModel-v0", 4, seed=3, budget_scale=0.2))
