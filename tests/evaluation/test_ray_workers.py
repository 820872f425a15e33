"""Ray's workers give what one process gives, whatever happens to them. One local Ray for all tests of this file."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from llmo import catalog
from llmo.errors import LlmoError, WorkerError
from llmo.evaluation import ray_cluster
from llmo.evaluation.compare import difference
from llmo.evaluation.ray_env import RayVecEnv
from llmo.evaluation.spread import spread
from llmo.evaluation.workers import Workers, find_workers
from llmo.mdp.spec import env_spec
from llmo.run_dir import RunDir

SHORT = "test/Short-v0"


class Struck(RayVecEnv):
    """At some steps actors are killed, by Ray before the step or by the system in it, and so are the next ones."""

    def __init__(self, *arguments: Any, **parameters: Any) -> None:
        self.blows: dict[int, tuple[int, ...]] = {}
        self.steps = self.kills = self.doomed = 0
        super().__init__(*arguments, **parameters)

    def _start(self, worker: int) -> Any:
        started: Any = super()._start(worker)
        if self.doomed:
            self.doomed -= 1
            self.kill(started.actor)
        return started

    def kill(self, actor: Any) -> None:
        ray.kill(actor)
        self.kills += 1

    def step_async(self, actions: Any) -> None:
        self.steps += 1
        struck = self.blows.get(self.steps, ())
        self.doomed = len(struck)
        processes = [
            ray.get(self._workers[worker].actor.__ray_call__.remote(lambda share: os.getpid())) for worker in struck
        ]
        for worker in struck[:1]:
            self.kill(self._workers[worker].actor)
        super().step_async(actions)
        for process in processes[1:]:
            os.kill(process, signal.SIGKILL)
            self.kills += 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Four CPUs, whatever the machine has, on ports and in a session of their own, so that two can run side by side."""
    assert "RAY_ADDRESS" not in os.environ and not ray.is_initialized()
    with pytest.MonkeyPatch.context() as patch:
        # Else everything else that the machine does goes before.
        patch.setenv("RAY_worker_niceness", "0")
        ray_cluster.join_cluster(4)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def env(cluster: None, short: Path) -> Iterator[Struck]:
    """Two actors, with an environment that only a plug-in has, which they must have loaded too."""
    made = Struck(SHORT, 4, 2, seed=3)
    yield made
    made.close()
    made.close()


def test_two_actors_give_what_one_process_gives(env: Struck, play: Callable[..., Any], alone: list[Any]) -> None:
    assert difference(alone, play(env)) == ""


def test_an_error_in_an_actor_is_raised_here(env: Struck) -> None:
    env._workers[0].send("step", np.array([999, 0]))
    with pytest.raises(LlmoError, match=r"action .*999.* is not usable") as caught:
        env._workers[0].receive(60)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:worker:RuntimeWarning")
def test_learning_outlives_its_actors(env: Struck, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    env.steps, env.blows = 0, {3: (0, 1), 8: (1, 0), 13: (1,)}
    with RunDir(tmp_path) as run:
        catalog.make_agent("ppo").learn(env_spec(SHORT).space, env, 64, run, None, lines.append)
    assert [line["env_steps"] for line in lines] == [64]
    assert (env.kills, env.lost_episodes) == (10, 10)


def test_four_actors_give_what_one_process_gives(env: Struck, play: Callable[..., Any], alone: list[Any]) -> None:
    env.close()
    four = RayVecEnv("llmo/LanguageModel-v0", 4, 4, seed=3, budget_scale=0.2)
    assert difference(alone, play(four)) == ""
    four.close()


def test_what_the_option_means(cluster: None) -> None:
    assert find_workers("ray") == Workers("ray", 4) == find_workers("ray:4")
    assert find_workers("ray", replicas=6).count == 3
    with pytest.raises(LlmoError, match="'ray:5' is not usable: allowed is at most 4"):
        find_workers("ray:5")


def test_calls_are_spread_over_tasks(cluster: None, tmp_path: Path) -> None:
    def square(number: int) -> int:
        died = tmp_path / "died"
        if number == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail() -> None:
        raise LlmoError("number", 1, "another one")

    two = Workers("ray", 2)
    assert dict(spread(square, [(number,) for number in range(4)], two)) == {n: n * n for n in range(4)}
    assert (tmp_path / "died").exists()
    with pytest.raises(LlmoError, match="number 1 is not usable"):
        list(spread(fail, [()], two))
    with pytest.raises(WorkerError, match="a worker is lost .* 3 times at the same work.*--resume"):
        list(spread(die, [()], two))


def test_every_node_has_this_llmo(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ray_cluster._check_versions()
    monkeypatch.setattr(ray_cluster, "__version__", "9.9")
    with pytest.raises(LlmoError, match=r"llmo on the Ray node .* allowed is 9\.9"):
        ray_cluster._check_versions()
