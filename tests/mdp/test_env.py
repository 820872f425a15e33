import math
import subprocess
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import llmo
from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.mdp.env import TrainingEnv

NAME = "llmo/LanguageModel-v0"


def make(**parameters: object) -> gymnasium.Env:
    return gymnasium.make(NAME, **({"budget_scale": 0.2} | parameters))


def test_gymnasiums_and_sb3s_checkers_pass_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(make().unwrapped)
        check_env_sb3(make().unwrapped)


def test_what_the_environment_offers() -> None:
    env = make(split="dev", instance=3, reward="final", render_mode="ansi")
    base = env.unwrapped
    assert isinstance(base, TrainingEnv)
    observation, info = env.reset()
    assert observation.shape == (len(base.feature_names),) and env.action_space.n == len(base.action_names)
    assert info["instance"] == 3
    np.testing.assert_array_equal(base.action_masks(), info["action_mask"])
    assert "not trained yet" in env.render()
    _, reward, _, _, info = env.step(base.action_names.index("rate_x2"))
    assert (reward, info["action"], info["measurement"].step) == (0.0, "rate_x2", 1)
    assert "rate_x2" in env.render()
    assert math.isfinite(base.test_loss())


def test_a_picture_is_an_array() -> None:
    env = make(instance=0, render_mode="rgb_array")
    env.reset()
    env.step(1)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 1


@pytest.mark.parametrize("order", ["import gymnasium, llmo", "import llmo, gymnasium"])
def test_make_works_in_any_order_of_imports(
    python: Callable[..., subprocess.CompletedProcess[str]], order: str
) -> None:
    """And an episode there is, bit for bit, an episode here."""
    program = f"""{order}
env = gymnasium.make("{NAME}", split="test", instance=1, budget_scale=0.2)
print(repr(env.reset()[0].tolist()))
print(repr(env.step(1)[0].tolist()))
"""
    result = python("-c", program)
    env = make(split="test", instance=1)
    expected = [repr(env.reset()[0].tolist()), repr(env.step(1)[0].tolist())]
    assert result.stdout.splitlines() == expected, result.stderr


def test_make_env_makes_the_same() -> None:
    one, other = make(instance=2), llmo.make_env(NAME, instance=2, budget_scale=0.2)
    np.testing.assert_array_equal(one.reset()[0], other.reset()[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"split": "tset"}, "did you mean 'test'"),
        ({"reward": "gian"}, "did you mean 'gain'"),
        ({"render_mode": "human"}, "render mode 'human'"),
        ({"instance": -1}, "an index from 0"),
        ({"instance": 1.0}, "an index from 0"),
        ({"budget_scale": 0.0}, "a positive finite number"),
        ({"budget_scale": math.nan}, "a positive finite number"),
        ({"instanse": 1}, "did you mean 'instance'"),
    ],
)
def test_a_wrong_parameter_is_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(LlmoError, match=message):
        make(**parameters)


@pytest.mark.parametrize("ask", ["step", "render", "action_masks", "snapshot", "test_loss"])
def test_before_reset_nothing_can_be_asked(ask: str) -> None:
    env = make(render_mode="ansi")
    with pytest.raises(LlmoError, match="a call of reset first"):
        env.step(0) if ask == "step" else getattr(env.unwrapped, ask)()


@pytest.mark.parametrize(
    "action",
    [-1, 26, 2**70, 1.0, math.nan, True, np.True_, None, "keep", np.float32(1), np.array([1, 2]), np.array([0.0])],
)
def test_a_wrong_action_is_refused_and_changes_nothing(action: object) -> None:
    env = make(instance=0)
    env.reset()
    before = env.unwrapped.snapshot()
    with pytest.raises(LlmoError, match=r"an integer in 0\.\.25"):
        env.step(action)
    assert difference(before, env.unwrapped.snapshot()) == ""


@pytest.mark.parametrize("action", [1, np.int64(1), np.array(1), np.array([1], np.int8)])
def test_every_kind_of_integer_is_an_action(action: object) -> None:
    env = make(instance=0)
    env.reset()
    assert env.step(action)[4]["action"] == "rate_x0.2"


@pytest.mark.parametrize("options", [{"instanse": 1}, {"instance": -1}, {"instance": True}, {"instance": "1"}])
def test_wrong_options_are_refused_and_change_nothing(options: dict[str, object]) -> None:
    env = make(instance=0)
    env.reset(seed=1)
    before, random = env.unwrapped.snapshot(), env.unwrapped.np_random.bit_generator.state
    with pytest.raises(LlmoError):
        env.reset(seed=2, options=options)
    assert difference(before, env.unwrapped.snapshot()) == ""
    assert env.unwrapped.np_random.bit_generator.state == random


def test_an_instance_in_the_options_is_played_once() -> None:
    env = make(instance=4)
    assert [env.reset(options=options)[1]["instance"] for options in (None, {"instance": 7}, {})] == [4, 7, 4]


def test_the_end_is_the_end() -> None:
    env = make(instance=0)
    env.reset()
    terminated, steps = False, 0
    while not terminated:
        _, _, terminated, truncated, info = env.step(0)
        steps += 1
        assert not truncated
    assert info["measurement"].step == steps and info["measurement"].spent > 0.8
    before = env.unwrapped.snapshot()
    with pytest.raises(LlmoError, match="a call of reset first"):
        env.step(0)
    assert difference(before, env.unwrapped.snapshot()) == ""
    env.reset()
    env.step(0)


def test_strict_raises_on_a_masked_action() -> None:
    env = make(instance=0, strict=True)
    env.reset()
    masked = env.unwrapped.action_names.index("adapter_full")
    assert not env.unwrapped.action_masks()[masked]
    with pytest.raises(LlmoError, match="action 'adapter_full'"):
        env.step(masked)
    relaxed = make(instance=0)
    relaxed.reset()
    *_, info = relaxed.step(masked)
    assert (info["action"], info["action_masked"], info["masked"]) == ("keep", True, 1)


def test_restoring_undoes_any_action() -> None:
    env = make(instance=0, budget_scale=0.5).unwrapped
    env.reset()
    env.step(0)
    before = env.snapshot()
    kept = env.step(0)
    env.restore(before)
    for action in np.flatnonzero(env.action_masks()):
        env.step(action)
        env.restore(before)
    assert difference(before, env.snapshot()) == ""
    assert difference(kept, env.step(0)) == ""
