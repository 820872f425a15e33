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
from llmo.atomic import write_text_atomic
from llmo.errors import at_least, needs_extra
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from llmo.evaluation.demonstrations import Demonstrations
    from llmo.evaluation.workers import Workers

TEACHER = "tutor"
BLIND = 16
"""Trials before the search learns from those that there are; these are the same whoever plays."""
JUDGED_FROM = 100_000
"""Index of the first train instance that trials are judged on; none that is learned on."""


@experiments.register("tune_ppo")
def tune_ppo(
    out: Path = Path("runs/tune_ppo"),
    trials: int = 24,
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
    train instances that it has not learned on. The first has the values that `ppo` has. Each worker does a trial by
    itself; what is drawn after the first 16 follows from the trials that were finished when it began.

    Args:
        out: Folder for `tuned_ppo.json` and for every trial.
        trials: How many there are in all.
        steps: Environment steps of each.
        demonstrations: How many train instances are learned on.
        instances: How many train instances a trial is judged on.
        env: Registered name of the environment.
        seed: Of the search and of everything random in each trial.
        replicas: Training runs side by side in a trial.
        workers: Who does a trial each: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core,
            ``ray`` or ``ray:N``.
        resume: Continue in the folder.

    Raises:
        LlmoError: Optuna is not installed, or a number is out of range.
    """
    given = locals().copy()
    needs_extra("search for PPO", "optuna", "tune")
    from llmo.engine.choice import population_executor
    from llmo.evaluation.demonstrations import demonstrate
    from llmo.evaluation.provenance import command, provenance
    from llmo.evaluation.spread import spread
    from llmo.evaluation.workers import find_workers
    from llmo.mdp.spec import env_spec

    at_least(1, trials=trials, steps=steps, demonstrations=demonstrations, instances=instances, replicas=replicas)
    at_least(0, seed=seed)
    env_spec(env)
    found = find_workers(workers)
    settings = {name: given[name] for name in ("env", "steps", "demonstrations", "instances", "seed", "replicas")}
    with RunDir(out, resume) as run:
        executor = run.settled("executor") or population_executor(steps)
        settings["executor"] = executor
        run.settle(settings)
        done = _finished(out, trials)
        if len(done) < trials:
            moves = demonstrate(env, TEACHER, range(demonstrations), found, replicas, executor)
            theirs = _judged(out / "episodes", settings, found)
        while len(done) < trials:
            numbers = [number for number in range(trials) if number not in done][: max(1, found.count)]
            drawn = {number: _drawn(done, number, seed) for number in numbers}
            calls = [(out / _name(number), drawn[number], moves, settings, theirs) for number in numbers]
            for place, gain in spread(_gain, calls, found):
                number = numbers[place]
                done[number] = {"gain": gain, "parameters": drawn[number]}
                write_text_atomic(out / f"{_name(number)}.json", json.dumps(done[number]) + "\n")
                print(f"trial {number}: {_told(done[number])}", flush=True)
        best = max(done.values(), key=lambda trial: trial["gain"])
        facts = {**settings, **provenance(), "command": command("tune_ppo", tune_ppo, given)}
        content = {"best": best, "trials": [done[number] for number in sorted(done)], **facts}
        write_text_atomic(out / "tuned_ppo.json", json.dumps(content, indent=1) + "\n")
    print(f"best of {len(done)}: {_told(best)}")


def _name(number: int) -> str:
    return f"trial-{number:03d}"


def _finished(out: Path, trials: int) -> dict[int, dict[str, Any]]:
    """The trials that a folder has already, by number."""
    files = {number: out / f"{_name(number)}.json" for number in range(trials)}
    return {number: json.loads(file.read_text()) for number, file in files.items() if file.exists()}


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


def _drawn(done: Mapping[int, Mapping[str, Any]], number: int, seed: int) -> dict[str, Any]:
    """Hyperparameters of a trial: the first has those of `ppo`, some are random, then a Parzen estimator draws.

    The sampler is seeded by the trial's number, so a search that is continued goes on as it would have.
    """
    import optuna

    space = _space()
    if not number:
        accepted = inspect.signature(catalog.get("agents", "ppo")).parameters
        return {name: accepted[name].default for name in space}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    # Blind trials must not depend on which others are finished: they come from a study that knows none.
    known = done if number >= BLIND else {}
    sampler = optuna.samplers.TPESampler(n_startup_trials=BLIND, seed=own)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in known.values():
        study.add_trial(optuna.trial.create_trial(params=trial["parameters"], distributions=space, value=trial["gain"]))
    return study.ask(space).params


def _gain(
    folder: Path,
    parameters: Mapping[str, Any],
    moves: Demonstrations,
    settings: Mapping[str, Any],
    theirs: Sequence[float],
) -> float:
    """Percent by which the policy of a short training is better than the teacher, on average."""
    from llmo.evaluation.workers import HERE, population_env
    from llmo.mdp.spec import env_spec

    env, seed = settings["env"], settings["seed"]
    learner = catalog.make_agent("ppo", **parameters)
    given = {"seed": seed, "reward": "relative", "executor": settings["executor"], "curves": moves.curves}
    with RunDir(folder, resume=True) as run:
        with closing(population_env(env, settings["replicas"], HERE, **given)) as venv:
            learner.learn(env_spec(env).space, venv, settings["steps"], run, moves, lambda line: None, seed=seed)
        learner.save(run.path / "policy", {"note": "a trial of a search for hyperparameters"})
    ours = _judged(folder / "episodes", settings, HERE, str(folder / "policy"))
    gains = [math.log(their / our) for our, their in zip(ours, theirs, strict=True)]
    return 100 * sum(gains) / len(gains)


def _judged(folder: Path, settings: Mapping[str, Any], workers: Workers, policy: str = "") -> list[float]:
    """Validation losses of a policy, or without one of the teacher, on the instances that trials are judged on."""
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.result import policy_job, tuned_job

    env, replicas = settings["env"], settings["replicas"]
    indices = range(JUDGED_FROM, JUDGED_FROM + settings["instances"])
    if policy:
        jobs = [policy_job(env, "train", index, "ppo", policy) for index in indices]
    else:
        jobs = [tuned_job(env, "train", index, TEACHER) for index in indices]
    jobs = [replace(job, executor=settings["executor"]) for job in jobs]
    records = play_all(jobs, folder, workers, replicas, what=f"{'ppo' if policy else TEACHER} is judged, in episodes")
    return [record.result.validation_loss for record in records]
