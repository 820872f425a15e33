"""PPO: learns what can be learned, never takes a masked action, resumes exactly, and keeps its policy in safe files."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv

from llmo import catalog
from llmo.agent import Space
from llmo.errors import LlmoError
from llmo.evaluation import learning
from llmo.evaluation.demonstrations import Demonstrations
from llmo.mdp.spec import env_spec
from llmo.run_dir import RunDir

SPACE = Space(("keep", "left", "right", "never"), ("a", "b", "c", "d"))


class Identity(gymnasium.Env[np.ndarray, np.int64]):
    """The observation says which of three actions pays; the fourth is masked and would pay more."""

    observation_space = gymnasium.spaces.Box(-5, 5, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(4)

    def _observe(self) -> np.ndarray:
        self.right = int(self.np_random.integers(3))
        return np.eye(4, dtype=np.float32)[self.right]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.total = 0.0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action != 3
        self.steps += 1
        reward = float(action == self.right)
        self.total += reward
        done = self.steps == 8
        info = {"episode": {"r": self.total, "l": self.steps, "t": 0.0}} if done else {}
        return self._observe(), reward, done, False, info

    def action_masks(self) -> np.ndarray:
        return np.array([True, True, True, False])


class Before(Identity):
    """The observation before the newest said which action pays now."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        told = self.told if self.steps else None
        self.told = self.right
        observation, _, done, truncated, _ = super().step(action)
        reward = float(action == told)
        self.gained = reward + (self.gained if self.steps > 1 else 0.0)
        info = {"episode": {"r": self.gained, "l": self.steps, "t": 0.0}} if done else {}
        return observation, reward, done, truncated, info


class Patience(Identity):
    """What the first step of an episode does pays: `keep` a little at once, `left` twice as much at the end."""

    def _observe(self) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[int(self.steps > 0)]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super(Identity, self).reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.steps:
            self.first = int(action)
        self.steps += 1
        done = self.steps == 4
        reward = 0.5 * (self.steps == 1 and self.first == 0) + 1.0 * (done and self.first == 1)
        return self._observe(), reward, done, False, {}


def learned(
    folder: Path,
    updates: int,
    demonstrations: Demonstrations | None = None,
    env: type[Identity] = Identity,
    name: str = "ppo",
    rate: float = 1e-3,
    **parameters: Any,
) -> Any:
    agent = catalog.make_agent(name, rate=rate)
    venv = DummyVecEnv([env for _ in range(8)])
    with RunDir(folder, resume=True) as run:
        agent.learn(SPACE, venv, 128 * updates, run, demonstrations, lambda line: None, **parameters)
    return agent


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def planted(moves: int) -> Demonstrations:
    right = np.arange(moves) % 3
    masks = np.tile(Identity().action_masks(), (moves, 1))
    return Demonstrations(np.eye(4, dtype=np.float32)[right], masks, right.astype(np.int64), np.ones(moves, bool), {})


class Wider(Identity):
    """The same with a feature in front that says nothing, and a fifth action that pays nothing."""

    observation_space = gymnasium.spaces.Box(-5, 5, (5,), np.float32)
    action_space = gymnasium.spaces.Discrete(5)
    space = Space((*SPACE.actions, "new"), ("nothing", *SPACE.features))

    def _observe(self) -> np.ndarray:
        return np.append(np.float32(1.0), super()._observe())

    def action_masks(self) -> np.ndarray:
        return np.append(super().action_masks(), True)


def best_actions(agent: Any, folder: Path) -> list[int]:
    agent.save(folder, {"note": "a test"})
    loaded = catalog.make_agent("ppo", policy=str(folder))
    loaded.bind(SPACE)
    masks = np.tile(Identity().action_masks(), (3, 1))
    return loaded.act(np.eye(4, dtype=np.float32)[:3], masks, np.zeros(3, bool)).tolist()


def test_it_learns_the_identity(tmp_path: Path) -> None:
    agent = learned(tmp_path / "run", 15, rate=3e-3)
    assert best_actions(agent, tmp_path / "policy") == [0, 1, 2]
    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert [line["env_steps"] for line in lines] == [128 * (update + 1) for update in range(15)]
    assert lines[-1]["return"] > 7 > 4 > lines[0]["return"]


@pytest.mark.parametrize("name", ["ppo", "ppo_stacked", "ppo_recurrent"])
def test_who_has_learned_can_play(tmp_path: Path, name: str) -> None:
    agent = learned(tmp_path / "run", 1, name=name)
    agent.reset([0])
    mask = np.array([[False, True, False, False]])
    assert agent.act(np.zeros((1, 4), np.float32), mask, np.ones(1, bool)).tolist() == [1]


def test_it_goes_on_from_a_policy_with_what_that_one_knew(tmp_path: Path) -> None:
    known = learned(tmp_path / "run", 1, demonstrations=planted(600))
    assert best_actions(known, tmp_path / "policy") == [0, 1, 2]
    agent = catalog.make_agent("ppo", policy=str(tmp_path / "policy"), rate=1e-9)
    with RunDir(tmp_path / "on", resume=True) as run:
        agent.learn(Wider.space, DummyVecEnv([Wider for _ in range(8)]), 128, run, None, lambda line: None)
    seen = torch.randn(6, 4)
    with torch.no_grad():
        before, after = known.net(seen), agent.net(torch.cat([torch.randn(6, 1), seen], 1))
    # What is new has no weight, whatever its values; an update at that rate moves nothing.
    assert torch.allclose(after, torch.cat([before, torch.zeros(6, 1)], 1), atol=1e-5)


def test_it_imitates(tmp_path: Path) -> None:
    agent = learned(tmp_path / "run", 1, demonstrations=planted(600), rate=1e-9)
    assert best_actions(agent, tmp_path / "policy") == [0, 1, 2]
    with torch.no_grad():
        probabilities = agent.net(torch.eye(4)[:3])[:, :3].softmax(1)
    # A tenth of the probability is spread over the three that are allowed.
    torch.testing.assert_close(probabilities, 0.9 * torch.eye(3) + 0.1 / 3, atol=0.02, rtol=0)


def test_who_remembers_learns_what_was_said_before(tmp_path: Path) -> None:
    """Of eight steps all but the first can be right; by chance a third of them are."""
    assert last_return(tmp_path, "ppo", 20, Before) < 4
    assert last_return(tmp_path, "ppo_stacked", 20, Before) > 6
    assert last_return(tmp_path, "ppo_recurrent", 40, Before) > 6


def last_return(folder: Path, name: str, updates: int, env: type[Identity]) -> float:
    learned(folder / name, updates, env=env, name=name, rate=3e-3).save(folder / name / "policy", {})
    value: float = json.loads((folder / name / "progress.jsonl").read_text().splitlines()[-1])["return"]
    return value


@pytest.mark.parametrize(("name", "updates"), [("ppo_stacked", 20), ("ppo_recurrent", 40)])
def test_what_is_remembered_belongs_to_one_run_and_episode(tmp_path: Path, name: str, updates: int) -> None:
    last_return(tmp_path, name, updates, Before)
    agent = catalog.make_agent(name, policy=str(tmp_path / name / "policy"))
    agent.bind(SPACE)
    agent.reset([0, 1, 2])
    masks = np.tile(Identity().action_masks(), (3, 1))
    said = np.eye(4, dtype=np.float32)
    agent.act(said[[0, 1, 2]], masks, np.ones(3, bool))
    assert agent.act(said[[2, 0, 1]], masks, np.zeros(3, bool)).tolist() == [0, 1, 2]
    assert agent.act(said[[2, 2, 2]], masks, np.zeros(3, bool)).tolist() == [2, 0, 1]
    agent.act(said[[1, 1, 0]], masks, np.array([False, False, True]))
    assert agent.act(said[[0, 0, 0]], masks, np.zeros(3, bool)).tolist() == [1, 1, 0]
    with pytest.raises(LlmoError, match=f"of the kind ppo, not {name}"):
        catalog.make_agent("ppo", policy=str(tmp_path / name / "policy")).bind(SPACE)


def test_a_memory_imitates_whole_episodes(tmp_path: Path) -> None:
    """The teacher does what the observation before said; at an episode's first step, `keep`."""
    random = np.random.default_rng(0)
    lengths = [int(length) for length in random.integers(3, 9, 60)]
    starts = np.concatenate([np.arange(length) == 0 for length in lengths])
    told = random.integers(3, size=len(starts))
    actions = np.where(starts, 0, np.roll(told, 1))
    masks = np.tile(Identity().action_masks(), (len(starts), 1))
    moves = Demonstrations(np.eye(4, dtype=np.float32)[told], masks, actions, starts, {})
    agent = learned(tmp_path / "run", 1, demonstrations=moves, name="ppo_recurrent", rate=1e-9)
    agent.save(tmp_path / "policy", {})
    loaded = catalog.make_agent("ppo_recurrent", policy=str(tmp_path / "policy"))
    loaded.bind(SPACE)
    loaded.reset([0])
    chosen = [loaded.act(*(part[None] for part in move))[0] for move in zip(moves.observations, masks, starts)]
    assert chosen == actions.tolist()


def test_shuffled_observations_tell_it_nothing(tmp_path: Path) -> None:
    """The shuffled control acts by chance, but by the same chance again, and never takes a masked action."""
    agent = learned(tmp_path / "run", 15, rate=3e-3)
    agent.save(tmp_path / "policy", {"note": "a test"})
    control = catalog.make_agent("ppo_shuffled", policy=str(tmp_path / "policy"))
    control.bind(SPACE)
    observations, masks = np.eye(4, dtype=np.float32)[np.arange(300) % 3], np.tile(Identity().action_masks(), (300, 1))
    acts = []
    for _ in range(2):
        control.reset(range(300))
        acts.append(control.act(observations, masks, np.ones(300, bool)))
    assert (acts[0] == acts[1]).all()
    assert (acts[0] < 3).all()
    assert 0.2 < (acts[0] == np.arange(300) % 3).mean() < 0.5


class Told(Identity):
    """Each observation ends with the step's number, which only the critic may read."""

    observation_space = gymnasium.spaces.Box(-5, 8, (5,), np.float32)

    def _observe(self) -> np.ndarray:
        return np.append(super()._observe(), np.float32(self.steps))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return super().reset(seed=seed)


def test_the_critic_sees_more_than_the_actor(tmp_path: Path) -> None:
    agent = learned(tmp_path / "run", 15, env=Told, rate=3e-3)
    assert best_actions(agent, tmp_path / "policy") == [0, 1, 2]
    with RunDir(tmp_path / "run", resume=True) as run:
        checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    widths = [
        checkpoint.tensors[f"policy/mlp_extractor.{net}.0.weight"].shape[1] for net in ("policy_net", "value_net")
    ]
    assert widths == [4, 5]
    # What is left of an episode follows from the step's number alone.
    value = checkpoint.tensors["policy/mlp_extractor.value_net.0.weight"][:, 4].norm()
    assert value > 0.5


class Whispered(Identity):
    """What pays is told behind the observation, which only the critic may read, and nowhere else."""

    observation_space = gymnasium.spaces.Box(-5, 8, (5,), np.float32)

    def _observe(self) -> np.ndarray:
        super()._observe()
        return np.array([0, 0, 0, 0, self.right], np.float32)


@pytest.mark.parametrize("name", ["ppo", "ppo_stacked", "ppo_recurrent"])
def test_no_actor_learns_from_what_only_its_critic_may_know(tmp_path: Path, name: str) -> None:
    """By chance a third of eight steps are right."""
    assert last_return(tmp_path, name, 20, Whispered) < 4


@pytest.mark.parametrize(("gamma", "first"), [(1.0, 1), (0.5, 0)])
def test_a_discount_makes_it_impatient(tmp_path: Path, gamma: float, first: int) -> None:
    """Twice as much three steps later is more than half at once, unless it is halved with every step."""
    agent = learned(tmp_path / "run", 15, env=Patience, rate=3e-3, gamma=gamma)
    assert best_actions(agent, tmp_path / "policy")[0] == first


def saved_and_killed(*arguments: Any, save: Any = learning._save_checkpoint) -> None:
    save(*arguments)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["ppo", "ppo_recurrent"])
def test_a_resumed_run_gives_the_same_policy(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "EVERY", 4)
    whole = learned(tmp_path / "whole", 10, name=name)
    with monkeypatch.context() as patch:
        patch.setattr(learning, "_save_checkpoint", saved_and_killed)
        with pytest.raises(KeyboardInterrupt):
            learned(tmp_path / "halves", 10, name=name)
    assert same(whole, learned(tmp_path / "halves", 10, name=name))
    assert not same(whole, learned(tmp_path / "other", 10, name=name, seed=1))


def test_the_rate_decays_to_a_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "EVERY", 4)
    rates: list[float] = []
    train = MaskablePPO.train

    def noting(model: MaskablePPO) -> None:
        train(model)
        rates.append(model.policy.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(MaskablePPO, "train", noting)
    learned(tmp_path / "run", 10, rate=2e-3)
    assert rates == pytest.approx([2e-3 * (1 - 0.9 * update / 10) for update in range(1, 11)])


def test_a_masked_action_has_no_probability(tmp_path: Path) -> None:
    agent = learned(tmp_path / "run", 1)
    agent.save(tmp_path / "policy", {})
    loaded = catalog.make_agent("ppo", policy=str(tmp_path / "policy"))
    loaded.bind(SPACE)
    only = np.zeros((4, 4), bool)
    only[np.arange(4), np.arange(4)] = True
    assert loaded.act(np.zeros((4, 4), np.float32), only, np.zeros(4, bool)).tolist() == [0, 1, 2, 3]
    assert loaded.explain()[1].startswith("left 1.00")


def test_a_policy_for_other_actions_is_refused(tmp_path: Path) -> None:
    learned(tmp_path / "run", 1).save(tmp_path / "policy", {})
    for policy in (str(tmp_path / "policy"), ""):
        with pytest.raises(LlmoError, match="learned with"):
            catalog.make_agent("ppo", policy=policy).bind(Space(("keep", "fly"), SPACE.features))


def test_fewer_actions_are_chosen_from_as_they_are_in_the_whole_menu(tmp_path: Path) -> None:
    learned(tmp_path / "run", 15, rate=3e-3).save(tmp_path / "policy", {})
    agent = catalog.make_agent("ppo", policy=str(tmp_path / "policy"))
    agent.bind(Space(("right", "keep"), SPACE.features))
    observations = np.eye(4, dtype=np.float32)[[0, 2]]
    assert agent.act(observations, np.ones((2, 2), bool), np.zeros(2, bool)).tolist() == [1, 0]


def test_the_shipped_policy_plays_every_environment_with_its_features() -> None:
    for name in ("llmo/LanguageModel-v1", "llmo/LanguageModel-v0", "llmo/Adapters-v0", "llmo/LanguageModel-NoSwaps-v1"):
        space = env_spec(name).space
        agent = catalog.make_agent("ppo")
        agent.bind(space)
        mask = np.ones((1, len(space.actions)), bool)
        assert agent.act(np.zeros((1, len(space.features)), np.float32), mask, np.ones(1, bool)).shape == (1,)
        assert agent.explain()[0].split()[0] in space.actions


@pytest.mark.parametrize("hidden", [None, [], ["a"], [-1], [10**9], 64])
def test_altered_settings_are_refused(tmp_path: Path, hidden: Any) -> None:
    learned(tmp_path / "run", 1).save(tmp_path / "policy", {})
    file = tmp_path / "policy" / "policy.json"
    content = json.loads(file.read_text())
    content["settings"]["hidden"] = hidden
    file.write_text(json.dumps(content))
    with pytest.raises(LlmoError, match="hidden"):
        catalog.make_agent("ppo", policy=str(tmp_path / "policy")).bind(SPACE)


def test_an_altered_policy_is_refused(tmp_path: Path) -> None:
    learned(tmp_path / "run", 1).save(tmp_path / "policy", {})
    file = tmp_path / "policy" / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(LlmoError, match=r"policy\.safetensors"):
        catalog.make_agent("ppo", policy=str(tmp_path / "policy")).bind(SPACE)
