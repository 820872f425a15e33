"""Workers give what one process gives, whatever happens to them."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import VecMonitor

from llmo.cli import main
from llmo.errors import LlmoError, WorkerError
from llmo.evaluation import process_env
from llmo.evaluation.compare import difference
from llmo.evaluation.process_env import ProcessVecEnv
from llmo.evaluation.processes import cores
from llmo.evaluation.workers import HERE, Workers, find_workers, population_env
from llmo.mdp.sb3_env import PopulationVecEnv

ENV = "llmo/LanguageModel-v0"
SHORT = {"seed": 3, "budget_scale": 0.2}
STAY = np.zeros(4, np.int64)


@pytest.fixture(scope="module")
def env() -> Iterator[ProcessVecEnv]:
    made = ProcessVecEnv(ENV, 4, 2, **SHORT)
    yield made
    made.close()


def strike(env: ProcessVecEnv, worker: int, number: int) -> None:
    os.kill(env._workers[worker].process.pid, number)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("0", HERE),
        (0, HERE),
        ("3", Workers("processes", 3)),
        (3, Workers("processes", 3)),
        ("processes:3", Workers("processes", 3)),
        ("processes", Workers("processes", cores())),
    ],
)
def test_what_the_option_means(asked: str | int, found: Workers) -> None:
    assert find_workers(asked) == found


@pytest.mark.parametrize("asked", ["-1", "", "two", "processes:0", "processes:", "ray:0", "ray:x", "rays", "1.5", "00"])
def test_what_it_does_not_mean(asked: str) -> None:
    with pytest.raises(LlmoError, match=r"workers.*processes:N.*ray:N"):
        find_workers(asked)


def test_replicas_are_shared_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LlmoError, match="multiple"):
        find_workers("2", replicas=3)
    with pytest.raises(LlmoError, match="multiple"):
        ProcessVecEnv(ENV, 3, 2)
    monkeypatch.setattr("llmo.evaluation.workers.cores", lambda: 4)
    assert [find_workers("processes", replicas).count for replicas in (1, 6, 7, 8)] == [1, 3, 1, 4]


@pytest.mark.parametrize(("workers", "kind"), [(HERE, PopulationVecEnv), (Workers("processes", 1), ProcessVecEnv)])
def test_who_holds_a_population(workers: Workers, kind: type) -> None:
    torch.set_num_threads(2)
    env = population_env(ENV, 2, workers)
    assert isinstance(env, kind)
    assert torch.get_num_threads() == 1
    env.close()


def test_two_processes_give_what_one_gives(env: ProcessVecEnv, play: Callable[..., Any], alone: list[Any]) -> None:
    env.seed(3)
    assert difference(alone, play(env)) == ""
    assert any(seen.any() for seen in alone[5::6])


def test_four_processes_give_what_one_gives(play: Callable[..., Any], alone: list[Any]) -> None:
    env = ProcessVecEnv(ENV, 4, 4, **SHORT)
    assert difference(alone, play(env)) == ""
    env.close()


def test_as_many_processes_as_cores_keep_to_one_each() -> None:
    whole = os.sched_getaffinity(0)
    own = sorted(whole)[:2]
    os.sched_setaffinity(0, own)
    try:
        for count, affinities in ((len(own), [[core] for core in own]), (len(own) + 1, [own] * (len(own) + 1))):
            env = ProcessVecEnv(ENV, count, count)
            assert [sorted(os.sched_getaffinity(worker.process.pid)) for worker in env._workers] == affinities
            env.close()
    finally:
        os.sched_setaffinity(0, whole)


def test_it_keeps_the_contract_of_sb3(env: ProcessVecEnv) -> None:
    assert env.seed(4) == [4] * 4
    env.reset()
    assert is_masking_supported(env)
    np.testing.assert_array_equal(get_action_masks(env), env.action_masks())
    np.testing.assert_array_equal(env.env_method("action_masks", indices=[1, 3]), env.action_masks()[[1, 3]])
    assert env.get_attr("num_envs", indices=0) == [4]
    assert env.get_attr("lost_episodes") == [0] * 4
    assert not env.has_attr("no_such_thing")
    assert env.env_is_wrapped(gymnasium.Wrapper, indices=[0, 1]) == [False, False]
    env.set_attr("timeout", 500.0)
    assert env.get_attr("timeout") == [500.0] * 4
    observations, rewards, dones, infos = VecMonitor(env).step(STAY)
    assert observations.shape == (4, *env.observation_space.shape) and observations.dtype == np.float32
    assert (rewards.dtype, dones.dtype, len(infos)) == (np.float32, np.bool_, 4)


def test_what_is_shown_is_the_receivers(env: ProcessVecEnv) -> None:
    first = env.reset()
    kept, masks = first.copy(), env.action_masks()
    first[:], masks[:] = 7, False
    assert env.action_masks().any(1).all()
    second = env.step(STAY)[0]
    env.step(STAY)
    assert not np.array_equal(second, env._observations) and not np.array_equal(second, kept)


def test_wrong_values_are_reported_and_harm_nothing(env: ProcessVecEnv) -> None:
    env.reset()
    masks, begun = env.action_masks(), env._begun.copy()
    for actions in (np.array([0, 0, 999, 0]), np.zeros(3, np.int64), np.zeros(4)):
        with pytest.raises(LlmoError, match="action"):
            env.step(actions)
    with pytest.raises(LlmoError, match="seed"):
        env.seed(-1)
    assert np.array_equal(masks, env.action_masks()) and np.array_equal(begun, env._begun)
    env.step(STAY)
    assert env.lost_episodes == 0


def test_an_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(LlmoError, match="did you mean 'gain'"):
        ProcessVecEnv(ENV, 2, 2, reward="gian")
    new = ProcessVecEnv(ENV, 2, 2)
    for call in (new.action_masks, lambda: new.step(np.zeros(2, np.int64))):
        with pytest.raises(LlmoError, match="reset first"):
            call()
    new.close()
    new.close()


def test_a_lost_worker_costs_its_episodes_and_nothing_else(env: ProcessVecEnv) -> None:
    whole = PopulationVecEnv(ENV, 4, **SHORT)
    env.seed(3)
    np.testing.assert_array_equal(whole.reset(), env.reset())
    whole.step(STAY)
    before, *_ = env.step(STAY)
    begun, lost = env._begun.copy(), env.lost_episodes
    strike(env, 1, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="worker 1 has ended with status -9; a new one goes on"):
        observations, rewards, dones, infos = env.step(STAY)
    undisturbed, step = whole.step(STAY), (observations, rewards, dones, infos)
    assert difference([part[:2] for part in undisturbed], [part[:2] for part in step]) == ""
    assert dones[2:].all() and not rewards[2:].any() and env.lost_episodes == lost + 2
    for slot in (2, 3):
        assert infos[slot]["TimeLimit.truncated"] is True and infos[slot]["lost"] is True
        np.testing.assert_array_equal(infos[slot]["terminal_observation"], before[slot])
    following = PopulationVecEnv(ENV, 2, first_slot=2, budget_scale=0.2)
    following.continue_from(3, begun[2:].tolist())
    np.testing.assert_array_equal(following.reset(), observations[2:])
    assert difference(following.reset_infos, env.reset_infos[2:]) == ""
    for _ in range(5):
        assert difference(list(following.step(STAY[:2])), [part[2:] for part in env.step(STAY)]) == ""
        np.testing.assert_array_equal(following.action_masks(), env.action_masks()[2:])


def test_a_worker_lost_between_episodes_costs_none(
    env: ProcessVecEnv, play: Callable[..., Any], alone: list[Any]
) -> None:
    lost = env.lost_episodes
    env.seed(3)
    strike(env, 0, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="worker 0"):
        assert difference(alone, play(env)) == ""
    assert env.lost_episodes == lost


def test_a_step_that_was_interrupted_is_forgotten(
    env: ProcessVecEnv, play: Callable[..., Any], alone: list[Any]
) -> None:
    env.reset()
    env.step_async(STAY)
    env.seed(3)
    assert difference(alone, play(env)) == ""


def test_a_worker_that_dies_again_and_again_ends_the_run() -> None:
    class Doomed(ProcessVecEnv):
        def _start(self, worker: int) -> Any:
            started = super()._start(worker)
            if self._observations is not None:
                started.process.kill()
            return started

    env = Doomed(ENV, 2, 2)
    env.reset()
    strike(env, 1, signal.SIGKILL)
    with warnings.catch_warnings(), pytest.raises(WorkerError) as caught:
        warnings.simplefilter("ignore")
        env.step(STAY[:2])
    assert str(caught.value).startswith("worker 1 was lost 3 times running without a finished step (it has ended")
    assert "fewer --replicas" in str(caught.value) and "\n" not in str(caught.value)
    env.close()


def test_a_worker_without_memory_is_a_lost_one(short: Path) -> None:
    (short / "hungry").touch()
    env = ProcessVecEnv("test/Short-v0", 2, 1, seed=3)
    with pytest.warns(RuntimeWarning, match="worker 0 is out of memory"):
        observations = env.reset()
    np.testing.assert_array_equal(observations, PopulationVecEnv(ENV, 2, **SHORT).reset())
    env.close()


class Struck(ProcessVecEnv):
    """Workers are killed before a step and in it, and one is stopped."""

    blows = {3: (0, signal.SIGKILL), 6: (1, signal.SIGKILL), 9: (0, signal.SIGSTOP), 14: (1, signal.SIGKILL)}

    steps = 0

    def step_async(self, actions: Any) -> None:
        self.steps += 1
        # A busy machine may be slow, so only what has been stopped is waited for that short.
        self.timeout = 6.0 if self.steps == 9 else 600.0
        if self.steps in self.blows and self.steps % 2:
            strike(self, *self.blows[self.steps])
        super().step_async(actions)

    def step_wait(self) -> Any:
        if self.steps in self.blows and not self.steps % 2:
            strike(self, *self.blows[self.steps])
        return super().step_wait()


@pytest.mark.filterwarnings("ignore:worker:RuntimeWarning")
def test_learning_outlives_its_workers(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_env, "ProcessVecEnv", Struck)
    words = ["train", "test/Short-v0", "--steps", "64", "--replicas", "4", "--workers", "2"]
    words += ["--demonstrations", "0", "--reward", "gain"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "policy" / "policy.safetensors").exists()
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [(line["env_steps"], line["lost_episodes"]) for line in lines] == [(64, 8)]


def test_nothing_is_left_when_this_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from llmo.evaluation.process_env import ProcessVecEnv\n"
        "if __name__ == '__main__':\n"
        f"    env = ProcessVecEnv({ENV!r}, 2, 2)\n"
        "    print(*[worker.process.pid for worker in env._workers], flush=True); time.sleep(600)\n"
    )
    (tmp_path / "killed.py").write_text(program)
    process = subprocess.Popen([sys.executable, str(tmp_path / "killed.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = process.stdout.readline().split()
    assert len(pids) == 2
    mapped = {line.split()[-1] for line in Path(f"/proc/{pids[0]}/maps").read_text().splitlines() if "pym-" in line}
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(name).exists() for name in mapped)
