"""Searches the hyperparameters of PPO on train instances, by Optuna (Akiba et al. 2019).

llmo tune_ppo --out runs/tune_ppo
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmo import catalog
from llmo.errors import at_least, needs_extra
from llmo.registry import experiments
from llmo.run_dir import RunDir, write_text_atomic

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.evaluation.workers import Workers

TEACHER = "tutor"
BLIND = 4
"""Trials before the search learns from those that there are."""
JUDGED_FROM = 100_000
"""Index of the first train instance that trials are judged on; none that is learned on."""


@experiments.register("tune_ppo")
def tune_ppo(
    out: Path = Path("runs/tune_ppo"),
    trials: int = 16,
    steps: int = 24_576,
    demonstrations: int = 512,
    instances: int = 128,
    env: str = "llmo/LanguageModel-v1",
    seed: int = 0,
    replicas: int = 64,
    workers: str | int = "processes",
    resume: bool = False,
) -> None:
    """Search the hyperparameters of PPO.

    Every trial is a short training as `llmo train` does it, judged by how much better its policy is than the teacher on
    train instances that it has not learned on. The first has the values that `ppo` has.

    Args:
        out: Folder for `tuned_ppo.json` and for every trial.
        trials: How many there are in all.
        steps: Environment steps of each.
        demonstrations: How many train instances are learned on.
        instances: How many train instances a trial is judged on.
        env: Registered name of the environment.
        seed: Of the search and of everything random in each trial.
        replicas: Training runs side by side.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        resume: Continue in the folder.

    Raises:
        LlmoError: Optuna is not installed, or a number is out of range.
    """
    given = locals().copy()
    needs_extra("search for PPO", "optuna", "tune")
    from llmo.engine.choice import population_executor
    from llmo.evaluation.demonstrations import demonstrate
    from llmo.evaluation.provenance import command, provenance
    from llmo.evaluation.workers import find_workers
    from llmo.mdp.spec import env_spec

    at_least(1, trials=trials, steps=steps, demonstrations=demonstrations, instances=instances, replicas=replicas)
    at_least(0, seed=seed)
    env_spec(env)
    found = find_workers(workers, replicas)
    settings = {name: given[name] for name in ("env", "steps", "demonstrations", "instances", "seed", "replicas")}
    with RunDir(out, resume) as run:
        executor = run.settled("executor") or population_executor(steps)
        settings["executor"] = executor
        run.settle(settings)
        done = [json.loads(file.read_text()) for file in sorted(run.path.glob("trial-*.json"))]
        if len(done) < trials:
            moves = demonstrate(env, TEACHER, range(demonstrations), found, replicas, executor)
            for number in range(len(done), trials):
                parameters = _drawn(done, seed)
                gain = _gain(out / f"trial-{number:03d}", parameters, moves, settings, found)
                done.append({"gain": gain, "parameters": parameters})
                write_text_atomic(out / f"trial-{number:03d}.json", json.dumps(done[-1]) + "\n")
                print(f"trial {number}: {_told(done[-1])}")
        best = max(done, key=lambda trial: trial["gain"])
        facts = {**settings, **provenance(), "command": command("tune_ppo", tune_ppo, given)}
        write_text_atomic(out / "tuned_ppo.json", json.dumps({"best": best, "trials": done, **facts}, indent=1) + "\n")
    print(f"best of {len(done)}: {_told(best)}")


def _told(trial: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} {value:.3g}" for name, value in trial["parameters"].items())
    return f"{trial['gain']:+.2f}% over {TEACHER} with {values}"


def _space() -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "rate": FloatDistribution(3e-4, 3e-3, log=True),
        "entropy": FloatDistribution(1e-3, 3e-2, log=True),
        "gae_lambda": FloatDistribution(0.8, 1.0),
        "epochs": IntDistribution(3, 15),
        "width": CategoricalDistribution([32, 64, 128]),
    }


def _drawn(done: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Hyperparameters of the next trial: those of `ppo`, a few at random, then what a Parzen estimator draws.

    The sampler is seeded by how many trials there are, so a search that is continued goes on as it would have.
    """
    import optuna

    space = _space()
    if not done:
        accepted = inspect.signature(catalog.get("agents", "ppo")).parameters
        return {name: accepted[name].default for name in space}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = int(np.random.SeedSequence([seed, len(done)]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(n_startup_trials=BLIND, seed=own)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in done:
        known = optuna.trial.create_trial(params=trial["parameters"], distributions=space, value=trial["gain"])
        study.add_trial(known)
    return study.ask(space).params


def _gain(
    folder: Path, parameters: Mapping[str, Any], moves: Demonstrations, settings: Mapping[str, Any], workers: Workers
) -> float:
    """Percent by which the policy of a short training is better than the teacher, on average."""
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.result import policy_job, tuned_job
    from llmo.evaluation.workers import population_env
    from llmo.mdp.spec import env_spec

    env, seed = settings["env"], settings["seed"]
    learner = catalog.make_agent("ppo", **parameters)
    given = {"seed": seed, "reward": "relative", "executor": settings["executor"], "curves": moves.curves}
    with RunDir(folder, resume=True) as run:
        with closing(population_env(env, settings["replicas"], workers, **given)) as venv:
            learner.learn(env_spec(env).space, venv, settings["steps"], run, moves, lambda line: None, seed=seed)
        learner.save(run.path / "policy", {"note": "a trial of a search for hyperparameters"})
    judged = range(JUDGED_FROM, JUDGED_FROM + settings["instances"])
    jobs = {
        "ppo": [policy_job(env, "train", index, "ppo", str(folder / "policy")) for index in judged],
        TEACHER: [tuned_job(env, "train", index, TEACHER) for index in judged],
    }
    losses = {}
    for name, played in jobs.items():
        same = [replace(job, executor=settings["executor"]) for job in played]
        # The teacher's episodes are those of the first trial.
        episodes = (folder if name == "ppo" else folder.parent) / "episodes"
        records = play_all(same, episodes, workers, settings["replicas"], what=f"{name} is judged, in episodes")
        losses[name] = [record.result.validation_loss for record in records]
    gains = [math.log(theirs / ours) for ours, theirs in zip(losses["ppo"], losses[TEACHER], strict=True)]
    return 100 * sum(gains) / len(gains)
