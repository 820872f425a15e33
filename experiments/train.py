"""Learns a policy: `llmo train llmo/LanguageModel-v0 --steps 30000 --out runs/train`.

The run folder holds `policy/` (safetensors and JSON), `progress.jsonl` (a line for each update), TensorBoard's record,
and checkpoints from which `--resume` continues exactly.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmo.errors import LlmoError
from llmo.registry import experiments

ROLLOUT = 16
"""Environment steps in each slot before an update."""
RANDOM_SHARE = 0.1
"""Share of the teacher's moves that are random, so that every action of the menu is seen."""


@experiments.register("train")
def train(
    env: str,
    agent: str = "ppo",
    steps: int = 30_000,
    out: Path = Path("runs/train"),
    seed: int = 0,
    teacher: str = "scripted",
    demonstrations: int = 256,
    reward: str = "gain",
    replicas: int = 64,
    workers: int | None = None,
    resume: bool = False,
) -> None:
    """Learn a policy on train instances.

    Args:
        env: Registered name of the environment.
        agent: Registered name of the learning agent.
        steps: Environment steps to learn from, demonstrations not counted.
        out: Run folder.
        seed: Of everything random in learning.
        teacher: Agent that is imitated first.
        demonstrations: How many episodes of the teacher; 0 learns from nothing.
        reward: ``gain``, ``relative`` or ``final``.
        replicas: Training runs side by side, a multiple of the workers.
        workers: Processes; by default one a core.
        resume: Continue the run in the folder.

    Raises:
        LlmoError: A name is unknown, a number out of range, or the folder holds another run.
    """
    from llmo import catalog
    from llmo.evaluation.workers import WorkerVecEnv
    from llmo.mdp.reward import valid_reward
    from llmo.mdp.spec import env_spec
    from llmo.run_dir import RunDir

    workers = workers or min(replicas, len(os.sched_getaffinity(0)))
    for name, value, least in (("steps", steps, 1), ("demonstrations", demonstrations, 0), ("replicas", replicas, 1)):
        if value < least:
            raise LlmoError(name, value, f"at least {least}")
    spec = env_spec(valid_env(env))
    learner = catalog.make_agent(agent)
    if not hasattr(learner, "learn"):
        raise LlmoError("agent", agent, "one that learns, such as ppo")
    catalog.get("agents", teacher)
    settings: dict[str, Any] = {
        "env": env, "agent": agent, "seed": seed, "teacher": teacher, "demonstrations": demonstrations,
        "reward": valid_reward(reward), "replicas": replicas,
    }  # fmt: skip
    with RunDir(out, resume) as run:
        _same_settings(run.path / "config.json", settings)
        run.write_config(settings)
        venv = WorkerVecEnv(env, replicas, workers, seed=seed, reward=reward)
        try:
            _learn(learner, spec.space, venv, run, settings, steps, workers)
        finally:
            venv.close()
        learner.save(run.path / "policy", _card(settings, run.path, steps))
    print(f"the policy is in {out / 'policy'}")


def valid_env(name: str) -> str:
    """The name itself.

    Raises:
        LlmoError: No such environment.
    """
    from llmo import catalog

    catalog.get("envs", name)
    return name


def _same_settings(config: Path, settings: dict[str, Any]) -> None:
    """A resumed run must be the same run.

    Raises:
        LlmoError: A setting differs from the folder's.
    """
    import json

    if config.exists():
        old = json.loads(config.read_text())
        for name, value in settings.items():
            if old.get(name) != value:
                raise LlmoError(f"{name} of a resumed run", value, f"the run's own, {old.get(name)!r}")


def _learn(learner: Any, space: Any, venv: Any, run: Any, settings: dict[str, Any], steps: int, workers: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from llmo.evaluation.demonstrations import demonstrate
    from llmo.evaluation.progress import Progress

    learner.space = space
    reference = _reference_return(settings["env"], venv.num_envs, run.path / "reference", workers)
    each = ROLLOUT * venv.num_envs
    updates = -(-steps // each)
    latest = run.latest_checkpoint()
    moves = None
    if settings["demonstrations"] and latest is None:
        indices = range(settings["demonstrations"])
        moves = demonstrate(settings["env"], settings["teacher"], indices, RANDOM_SHARE, settings["seed"], workers)
    writer = SummaryWriter(str(run.path / "tensorboard"))
    done = latest.meta["timesteps"] if latest else 0
    with Progress(f"{settings['agent']} learns, in env steps", updates * each, done) as progress:

        def on_update(line: dict[str, Any]) -> None:
            line["reference_return"] = reference
            if line["return"] is not None:
                writer.add_scalar("return", line["return"], line["env_steps"])
            progress.advance(each, f"return {line['return'] or float('nan'):.2f}, reference {reference:.2f}")

        learner.learn(venv, updates, run, moves, on_update, seed=settings["seed"], steps=ROLLOUT)
    writer.close()


def _reference_return(env: str, instances: int, folder: Path, workers: int) -> float:
    """What the reference rule gains on train instances, on average: what a policy's return is compared with."""
    from llmo.catalog.tuned import shipped
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.result import Job

    jobs = [Job(env, "train", index, shipped()["reference"]) for index in range(instances)]
    records = play_all(jobs, folder, workers, what=f"the reference rule {jobs[0].agent}, in episodes")
    return sum(record.result.total_reward for record in records) / len(records)


def _card(settings: dict[str, Any], folder: Path, steps: int) -> dict[str, Any]:
    import json

    from llmo.evaluation.provenance import provenance

    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return {**settings, "env_steps": lines[-1]["env_steps"], "asked_steps": steps, **provenance()}
