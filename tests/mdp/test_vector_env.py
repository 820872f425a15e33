import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

from llmo.errors import LlmoError
from llmo.evaluation.compare import difference
from llmo.mdp.env import make
from llmo.mdp.population import Population
from llmo.mdp.sb3_env import PopulationVecEnv
from llmo.mdp.spec import env_spec
from llmo.mdp.stream import drawn_number
from llmo.mdp.vector_env import PopulationVectorEnv

NAME = "llmo/LanguageModel-v0"
SCALE = 0.12


def vector(num_envs: int = 2) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(NAME, num_envs, vectorization_mode="vector_entry_point", budget_scale=SCALE)


def choices(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])


def test_make_vec_makes_one_population() -> None:
    for env in (vector(3), gymnasium.make_vec(NAME, 3, budget_scale=SCALE)):
        assert isinstance(env, PopulationVectorEnv)
        assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        assert env.spec.id == NAME
        observations, infos = env.reset(seed=1)
        assert observations in env.observation_space
        assert infos["action_mask"].shape == (3, env.single_action_space.n) and infos["_action_mask"].all()
        np.testing.assert_array_equal(infos["action_mask"], env.action_masks())
        assert env.step(env.action_space.sample())[0] in env.observation_space


def test_both_adapters_and_single_slots_play_the_same() -> None:
    """Through ends of episodes: each slot's stream is a chain of episodes played alone."""
    sb3, gym = (
        PopulationVecEnv(NAME, 2, split="dev", seed=9, budget_scale=SCALE),
        gymnasium.make_vec(NAME, 2, split="dev", budget_scale=SCALE),
    )
    spec, rng = env_spec(NAME), np.random.default_rng(0)
    alone = [Population(spec, executor="batched") for _ in range(2)]
    begun = [0, 0]

    def begin(slot: int) -> None:
        alone[slot].reset({0: spec.draw("dev", drawn_number(9, slot, begun[slot]), SCALE)})
        begun[slot] += 1

    for slot in (0, 1):
        begin(slot)
    np.testing.assert_array_equal(sb3.reset(), gym.reset(seed=9)[0])
    for _ in range(6):
        actions = choices(sb3.action_masks(), rng)
        seen, rewards, dones, infos = sb3.step(actions)
        other, gains, ends, cuts, gym_infos = gym.step(actions)
        np.testing.assert_array_equal(seen, other)
        np.testing.assert_array_equal(rewards, gains.astype(np.float32))
        np.testing.assert_array_equal(dones, ends)
        assert not cuts.any()
        for slot in (0, 1):
            step = alone[slot].step({0: actions[slot]})[0]
            assert (step.reward, step.terminated) == (gains[slot], ends[slot])
            if step.terminated:
                last = alone[slot].observe(0)
                np.testing.assert_array_equal(infos[slot]["terminal_observation"], last)
                np.testing.assert_array_equal(gym_infos["final_obs"][slot], last)
                assert infos[slot]["measurement"] == gym_infos["final_info"]["measurement"][slot] == step.measurement
                assert infos[slot]["TimeLimit.truncated"] is False
                begin(slot)
                assert (
                    sb3.reset_infos[slot]["instance"]
                    == gym_infos["instance"][slot]
                    == alone[slot].episode(0).instance.index
                )
            np.testing.assert_array_equal(seen[slot], alone[slot].observe(0))
            np.testing.assert_array_equal(sb3.action_masks()[slot], alone[slot].mask(0))
    assert min(begun) > 1


def test_what_a_slot_plays_does_not_depend_on_how_slots_are_spread() -> None:
    whole = PopulationVecEnv(NAME, 3, seed=4, budget_scale=SCALE)
    parts = [
        PopulationVecEnv(NAME, 1, seed=4, budget_scale=SCALE),
        PopulationVecEnv(NAME, 2, seed=4, budget_scale=SCALE, first_slot=1),
    ]
    np.testing.assert_array_equal(whole.reset(), np.concatenate([part.reset() for part in parts]))
    rng, ended = np.random.default_rng(1), 0
    for _ in range(5):
        actions = choices(whole.action_masks(), rng)
        observations, rewards, dones, _ = whole.step(actions)
        others = [part.step(some) for part, some in zip(parts, np.split(actions, [1]))]
        np.testing.assert_array_equal(observations, np.concatenate([other[0] for other in others]))
        np.testing.assert_array_equal(rewards, np.concatenate([other[1] for other in others]))
        np.testing.assert_array_equal(dones, np.concatenate([other[2] for other in others]))
        ended += dones.sum()
    assert ended


def test_infos_are_as_gymnasium_gives_them() -> None:
    ours = vector()
    theirs = SyncVectorEnv(
        [lambda: make(NAME, budget_scale=SCALE)] * 2, autoreset_mode=AutoresetMode.SAME_STEP, copy=False
    )
    shapes = []
    for env in (ours, theirs):
        _, infos = env.reset(seed=0)
        found = {"reset": {key: (value.dtype, value.shape) for key, value in infos.items()}}
        while "end" not in found:
            _, rewards, ends, cuts, infos = env.step(np.zeros(2, np.int64))
            assert (rewards.dtype, ends.dtype, cuts.dtype) == (np.float64, np.bool_, np.bool_)
            flat = {key: value for key, value in infos.items() if key != "final_info"} | infos.get("final_info", {})
            kind = "end" if "final_info" in infos else "step"
            found[kind] = {key: (value.dtype, value.shape) for key, value in flat.items()}
            assert kind == "step" or list(infos["_final_obs"]) == list(ends)
        shapes.append(found)
    for kind in ("reset", "step", "end"):
        assert shapes[0][kind] == shapes[1][kind]


def test_sb3_gets_the_return_and_the_length_of_ended_episodes() -> None:
    env = PopulationVecEnv(NAME, 2, seed=3, budget_scale=SCALE)
    env.reset()
    rng, rewards, found = np.random.default_rng(3), [[], []], 0
    for _ in range(5):
        _, given, dones, infos = env.step(choices(env.action_masks(), rng))
        for slot in (0, 1):
            rewards[slot].append(given[slot])
            assert ("episode" in infos[slot]) == dones[slot]
            if dones[slot]:
                assert infos[slot]["episode"]["r"] == pytest.approx(sum(rewards[slot]), rel=1e-5, abs=1e-6)
                assert infos[slot]["episode"]["l"] == len(rewards[slot])
                rewards[slot], found = [], found + 1
    assert found > 2


def test_seeds_begin_a_stream_again() -> None:
    env = vector()
    first, second = env.reset(seed=6)[1]["instance"], env.reset()[1]["instance"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(env.reset(seed=6)[1]["instance"], first)
    np.testing.assert_array_equal(env.reset()[1]["instance"], second)
    sb3 = PopulationVecEnv(NAME, 2, seed=6, budget_scale=SCALE)
    sb3.reset()
    assert [info["instance"] for info in sb3.reset_infos] == list(first)
    sb3.reset()
    assert [info["instance"] for info in sb3.reset_infos] == list(second)
    sb3.seed(6)
    sb3.reset()
    assert [info["instance"] for info in sb3.reset_infos] == list(first)


def test_sb3_contrib_finds_the_masks() -> None:
    env = PopulationVecEnv(NAME, 2, budget_scale=SCALE)
    env.reset()
    assert is_masking_supported(env)
    assert not env.has_attr("no_such_thing")
    np.testing.assert_array_equal(get_action_masks(env), env.action_masks())
    assert len(env.env_method("action_masks", indices=[1])) == 1
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False, False]


def test_wrong_values_are_refused() -> None:
    env = vector()
    with pytest.raises(LlmoError, match="a call of reset first"):
        env.step(np.zeros(2, np.int64))
    env.reset(seed=0)
    for actions in (np.zeros(3, np.int64), np.array([0, 26]), np.array([0.0, 1.0])):
        with pytest.raises(LlmoError):
            env.step(actions)
    with pytest.raises(LlmoError, match="reset option"):
        env.reset(options={"instance": 1})
    for parameters in ({"split": "tset"}, {"reward": "gian"}, {"budget_scale": -1}, {"replicas": 3}):
        with pytest.raises(LlmoError):
            gymnasium.make_vec(NAME, 2, **parameters)
    for parameters in ({"replicas": 0}, {"replicas": 2, "seed": -1}, {"replicas": 2, "first_slot": -1}):
        with pytest.raises(LlmoError):
            PopulationVecEnv(NAME, **parameters)


def test_a_refused_step_changes_nothing() -> None:
    env = vector()
    env.reset(seed=2)
    population = env.unwrapped._stream.population
    before = [population.snapshot(slot) for slot in (0, 1)]
    with pytest.raises(LlmoError):
        env.step(np.array([1, 99]))
    assert difference(before, [population.snapshot(slot) for slot in (0, 1)]) == ""
