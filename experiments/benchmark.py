"""Compares agents: `llmo benchmark --agents ppo,cosine --policy runs/train/policy --instances 32 --out runs/bench`.

Every agent plays the same instances with the same data order and the same budget of FLOPs. One file an episode is
kept, so `--resume` continues; `scores.json` has the scores, `llmo report` draws them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo.errors import LlmoError
from llmo.registry import experiments

if TYPE_CHECKING:
    from llmo.evaluation.result import Job

SPEEDUP_BUDGETS = (1 / 1.25, 1 / 1.5, 1 / 2, 1 / 3, 1 / 4)


@experiments.register("benchmark")
def benchmark(
    env: str = "llmo/LanguageModel-v0",
    agents: list[str] | None = None,
    policy: list[str] | None = None,
    instances: int = 32,
    split: str = "test",
    first: int = 0,
    seed: int = 0,
    speedup: bool = False,
    replicas: int = 64,
    workers: int | None = None,
    out: Path = Path("runs/benchmark"),
    resume: bool = False,
) -> None:
    """Compare agents on held-out training problems.

    Args:
        env: Registered name of the environment.
        agents: Registered names; by default every hand rule, and `ppo` where a policy is given.
        policy: Folders of policies that `ppo` plays; several are its training seeds.
        instances: How many.
        split: ``train``, ``dev`` or ``test``.
        first: Index of the first instance.
        seed: Of what is random in the agents.
        speedup: Also play every agent on smaller budgets, for the budget at which it matches the reference.
        replicas: Episodes that one process plays together.
        workers: Processes; by default one a core.
        out: Folder for episodes and scores.
        resume: Continue in the folder.

    Raises:
        LlmoError: A name is unknown, a number out of range, or the folder holds another benchmark.
    """
    from llmo import catalog
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.scores import score
    from llmo.evaluation.table import score_table
    from llmo.mdp.spec import env_spec
    from llmo.run_dir import RunDir, write_text_atomic
    from llmo.tasks.text import PARTS

    spec = env_spec(env)
    if split not in PARTS:
        raise LlmoError("split", split, PARTS)
    for name, value, least in (("instances", instances, 1), ("first", first, 0), ("replicas", replicas, 1)):
        if value < least:
            raise LlmoError(name, value, f"at least {least}")
    names = _agents(agents, bool(policy))
    reference, best_rule = _rules()
    players = _players([*dict.fromkeys([reference, *names])], policy or [], seed)
    for name, parameters, _ in players:
        catalog.make_agent(name, **dict(parameters)).bind(spec.space)
    budgets = (1.0, *(SPEEDUP_BUDGETS if speedup else ()))
    jobs = _jobs(env, split, range(first, first + instances), players, budgets)
    with RunDir(out, resume):
        records = play_all(jobs, out / "episodes", workers or len(os.sched_getaffinity(0)), replicas)
        scores = score(records, reference, best_rule)
        scores["command"] = (
            f"llmo benchmark --env {env} --agents {','.join(names)} --instances {instances} --split {split}"
            f"{' --policy ' + ','.join(policy) if policy else ''}{f' --first {first}' if first else ''}"
            f"{' --speedup' if speedup else ''}"
        )
        write_text_atomic(out / "scores.json", json.dumps(scores, indent=2) + "\n")
        if split == "test":
            _log_scoring(scores)
    print(score_table(scores))
    print(f"scores are in {out / 'scores.json'}; `llmo report {out}` draws them")


def _agents(asked: list[str] | None, learned: bool) -> list[str]:
    """The agents to compare; by default all that need no look-ahead."""
    from llmo import catalog

    if asked:
        for name in asked:
            catalog.get("agents", name)
        return asked
    catalog.load("agents")
    registry = catalog.KINDS["agents"]
    return [name for name in registry.names() if not registry.get(name).search and (name != "ppo" or learned)]


def _rules() -> tuple[str, str]:
    """The reference and the best tuned rule, both named on train instances."""
    from llmo.catalog.tuned import shipped

    return shipped()["reference"], shipped()["best_rule"]


def _players(names: list[str], policies: list[str], seed: int) -> list[tuple[str, tuple[tuple[str, Any], ...], int]]:
    """Name, parameters and seed of each player; tuned values are spelled out, so that episodes tell what was played."""
    from llmo.catalog.tuned import tuned_parameters

    players: list[tuple[str, tuple[tuple[str, Any], ...], int]] = []
    for name in names:
        if name == "ppo":
            players += [(name, (("policy", folder),), seed + place) for place, folder in enumerate(policies or [""])]
        else:
            players.append((name, tuple(sorted(tuned_parameters(name).items())), seed))
    return players


def _jobs(env: str, split: str, indices: range, players: list[Any], budgets: tuple[float, ...]) -> list[Job]:
    from llmo.evaluation.result import Job

    return [
        Job(env, split, index, name, parameters, seed, budget)
        for name, parameters, seed in players
        for budget in budgets
        for index in indices
    ]


def _log_scoring(scores: dict[str, Any]) -> None:
    """Note down every scoring on test instances, in the cache folder: each one costs some of their worth."""
    import datetime

    from llmo.tasks.text import cache_folder

    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": scores["command"],
        "commit": scores["commit"],
        "iqm": {name: agent["iqm"] for name, agent in scores["agents"].items()},
    }
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with (cache_folder() / "test_scorings.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError:
        return
