"""Planted mistakes: each is found, by the line that is about it and by no other."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from llmo import catalog
from llmo.actions.action import Action
from llmo.agent import Agent
from llmo.cli import main
from llmo.evaluation.checks import check
from llmo.evaluation.compare import difference
from llmo.mdp.spec import env_spec


def plant(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, entry: object) -> list[str]:
    """Register something for one test; what the check says of it."""
    catalog.load(kind)
    monkeypatch.setitem(catalog.KINDS[kind]._entries, name, entry)
    return [line for line in check(name) if line.startswith("FAIL")]


class Twice(Action):
    """Twice the learning rate."""

    def allowed(self, run, row):
        return True

    def apply(self, run, row):
        run.change(row, learning_rate=2 * run.states[row].hyperparameters.learning_rate)


class Nothing(Twice):
    """Does nothing."""

    def apply(self, run, row):
        pass


class Everywhere(Twice):
    """Changes every row."""

    def apply(self, run, row):
        for each in range(run.replicas):
            super().apply(run, each)


class Refund(Twice):
    """Gives budget back."""

    def apply(self, run, row):
        run.states[row].spent /= 2


class Never(Twice):
    """Is never allowed."""

    def allowed(self, run, row):
        return False


class Meddling(Twice):
    """Changes what it only looks at."""

    def allowed(self, run, row):
        run.states[row].cursor += 1
        return True


def test_a_sound_action_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plant(monkeypatch, "actions", "planted", Twice) == []


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (Nothing, "changes nothing"),
        (Everywhere, "the other run"),
        (Refund, "gives budget back"),
        (Never, "allowed in no state"),
        (Meddling, "cursor"),
        (object, "it is a object"),
    ],
)
def test_a_broken_action_is_found(monkeypatch: pytest.MonkeyPatch, action: type, words: str) -> None:
    failures = plant(monkeypatch, "actions", "planted", action)
    assert failures and words in failures[0]


class Still(Agent):
    """Keeps."""

    def reset(self, seeds: Sequence[int]) -> None:
        self.rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self, observation, mask, episode_start):
        return np.full(len(observation), self.space.action("keep"))


class Unseeded(Still):
    """Draws from nowhere."""

    def act(self, observation, mask, episode_start):
        return np.random.default_rng().integers(len(self.space.actions), size=len(observation))


class Herd(Still):
    """Lets its runs depend on each other."""

    def act(self, observation, mask, episode_start):
        return np.full(len(observation), self.space.action("keep" if len(observation) == 1 else "rate_x0.2"))


class Outside(Still):
    """Chooses what is not on the menu."""

    def act(self, observation, mask, episode_start):
        return np.full(len(observation), len(self.space.actions))


class Demanding(Still):
    """Cannot be made without an argument."""

    def __init__(self, needed):
        self.needed = needed


class Untunable(Still):
    """Has a value to try that it refuses."""

    grid = {"share": (0.5, 2.0)}

    def __init__(self, share: float = 0.5):
        if share > 1:
            raise ValueError("share")


class OneSchedule(Still):
    """One schedule, however many runs."""

    def schedules(self, starts):
        return [lambda spent: 1.0]


def test_a_sound_agent_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plant(monkeypatch, "agents", "planted", Still) == []


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (Unseeded, "and again the same"),
        (Herd, "as it does among others"),
        (Outside, "plays three runs"),
        (Demanding, "whose parameters have defaults"),
        (Untunable, "values that `tune` tries"),
        (OneSchedule, "1 schedules for 2 runs"),
        (lambda: 3, "it is a int"),
    ],
)
def test_a_broken_agent_is_found(monkeypatch: pytest.MonkeyPatch, agent: object, words: str) -> None:
    failures = plant(monkeypatch, "agents", "planted", agent)
    assert any(words in line for line in failures)


def test_a_broken_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that draws anew each time it is asked for the same instance."""
    spec, draws = env_spec("llmo/LanguageModel-v0"), iter(range(10**6))

    def draw(split, index, scale):
        return spec.draw(split, next(draws), scale)

    def planted():
        """An environment that is never the same."""
        return dataclasses.replace(spec, name="planted-v0", draw=draw)

    failures = plant(monkeypatch, "envs", "planted-v0", planted)
    for words in ("gymnasium's checker", "equal seeds give equal episodes", "both vector adapters"):
        assert any(words in line for line in failures)
    assert not any("restoring" in line or "masked" in line for line in failures)


def test_a_broken_experiment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(env: str, often) -> int:
        """Does something.

        Args:
            env: Where.
        """

    failures = plant(monkeypatch, "experiments", "planted", planted)
    assert [line.rpartition(" ")[2] for line in failures] == ["often", "often", "'int'>"]
    planted.__doc__ = None
    assert "its docstring is empty" in plant(monkeypatch, "experiments", "planted", planted)[0]


def test_a_broken_task_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmo.tasks.causal_lm import CausalLM

    class Skewed(CausalLM):
        """Reports half of its loss."""

        def score(self, logits, labels):
            return super().score(logits, labels) / 2

    spec = env_spec("llmo/LanguageModel-v0")

    def build(instance):
        problem = spec.build(instance)
        problem.task.__class__ = Skewed
        return problem

    monkeypatch.setitem(
        catalog.KINDS["envs"]._entries, "llmo/LanguageModel-v0", lambda: dataclasses.replace(spec, build=build)
    )
    (failure,) = plant(monkeypatch, "tasks", "planted", Skewed)
    assert "the score is the mean loss" in failure


def test_the_command_fails_where_a_check_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, "actions", "planted", Never)
    assert main(["check", "planted"]) == 1
    assert "FAIL action planted" in capsys.readouterr().out
    assert main(["check", "planned"]) == 2
    assert "did you mean 'planted'" in capsys.readouterr().err


@dataclasses.dataclass
class Point:
    x: float
    more: object = None


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (1.5, 1.5, ""),
        (float("nan"), float("nan"), ""),
        (1.5, 1.25, "v: recorded 1.5, now 1.25"),
        (1, 1.0, "v: recorded 1, now 1.0"),
        (Point(1.0, [1, 2]), Point(1.0, [1, 2]), ""),
        (Point(1.0, [1, {"a": 2}]), Point(1.0, [1, {"a": 3}]), "v.more.1.a: recorded 2, now 3"),
        ([1], [1, 2], "v: recorded 1 entries, now 2"),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), ""),
        (np.array([0.0]), np.array([-0.0]), "v[0]: recorded 0.0, now -0.0"),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]), "v[0, 1]: recorded 2.0, now 3.0"),
        (np.zeros(2), np.zeros(3), "v: recorded float64[2], now float64[3]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), ""),
        (len, len, ""),
        (len, max, "v: recorded <built-in function len>, now <built-in function max>"),
    ],
)
def test_difference_names_the_first_place(one: object, other: object, found: str) -> None:
    assert difference(one, other, "v") == found
