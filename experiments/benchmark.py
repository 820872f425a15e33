"""Compares agents: `llmo benchmark --agents ppo,cosine --policy runs/train/policy --instances 32 --out runs/bench`.

Every agent plays the same instances with the same data order and the same budget of FLOPs. One file an episode is
kept, so `--resume` continues; `scores.json` has the scores, `llmo report` draws them. All results stand in one small
file too, `episodes.jsonl.xz`: with it in a new folder, `--resume` scores again without playing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmo.agent import Agent, LearningAgent, OptimizerAgent, Space
from llmo.errors import LlmoError, at_least
from llmo.registry import experiments

if TYPE_CHECKING:
    from llmo.evaluation.result import Job

SPEEDUP_BUDGETS = (1 / 1.25, 1 / 1.5, 1 / 2, 1 / 3, 1 / 4)


@experiments.register("benchmark")
def benchmark(
    env: str = "llmo/LanguageModel-v1",
    agents: list[str] | None = None,
    policy: list[str] | None = None,
    data: str = "",
    instances: int = 32,
    split: Literal["train", "dev", "test"] = "test",
    first: int = 0,
    seed: int = 0,
    speedup: bool = False,
    replicas: int = 64,
    workers: str | int = "processes",
    executor: Literal["batched", "compiled"] = "batched",
    out: Path = Path("runs/benchmark"),
    resume: bool = False,
) -> None:
    """Compare agents on held-out training problems.

    Args:
        env: Registered name of the environment.
        agents: Registered names; by default every learned agent and every rule that is tuned or cannot be; not what
            plays several runs of an instance, looks ahead, brings an optimizer, or is a control.
        policy: Folders of policies that learned agents play, several for the seeds of a training; by default the one
            that comes with the agent.
        data: Folder with `train.txt`, `valid.txt` and `test.txt`, whose text is learned instead.
        instances: How many.
        split: ``train``, ``dev`` or ``test``.
        first: Index of the first instance.
        seed: Of what is random in the agents.
        speedup: Also play every agent on smaller budgets, for the budget at which it matches the reference.
        replicas: Episodes that one worker plays together.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        executor: ``compiled`` plays faster, after a minute of compiling for each model shape.
        out: Folder for episodes and scores.
        resume: Continue in the folder.

    Raises:
        LlmoError: A name is unknown, a number out of range, or the folder holds another benchmark.
    """
    given = locals().copy()
    from llmo.atomic import write_text_atomic
    from llmo.catalog.tuned import best_rule, reference_rule
    from llmo.evaluation.archive import write_archive
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.provenance import command
    from llmo.evaluation.scores import score
    from llmo.evaluation.scoring_log import log_scoring
    from llmo.evaluation.table import rule_table, score_table
    from llmo.evaluation.workers import find_workers
    from llmo.run_dir import RunDir

    env = f"{env}:{data}" if data else env
    at_least(1, instances=instances, replicas=replicas)
    at_least(0, first=first, seed=seed)
    found = find_workers(workers)
    names, indices = _names(env, agents, policy or []), range(first, first + instances)
    drawn = _jobs(env, split, indices, names, policy or [], seed, speedup)
    jobs = [replace(job, executor=executor) for job in drawn]
    _check(jobs)
    with RunDir(out, resume):
        records = play_all(jobs, out / "episodes", found, replicas)
        write_archive(out, records)
        scores = score(records, reference_rule(env), best_rule(env))
        scores["command"] = command("benchmark", benchmark, given)
        write_text_atomic(out / "scores.json", json.dumps(scores, indent=2) + "\n")
        log_scoring(split, scores["command"], {name: row["iqm"] for name, row in scores["agents"].items()})
    print(score_table(scores))
    if against := rule_table(scores):
        print(f"\n{against}\n")
    print(f"scores are in {out / 'scores.json'}; `llmo report {out}` draws them")


def _names(env: str, asked: list[str] | None, policies: Sequence[str]) -> list[str]:
    """The reference and the agents to compare."""
    from llmo import catalog
    from llmo.catalog.tuned import reference_rule

    if asked is None:
        catalog.load("agents")
        registry = catalog.KINDS["agents"]
        classes = {name: registry.get(name) for name in registry.names()}
        asked = [name for name, kind in classes.items() if _plays_by_default(name, kind, env, policies)]
        if policies and not any(issubclass(classes[name], LearningAgent) for name in asked):
            # What is wrong with them is said when it binds them.
            asked.append("ppo")
    return list(dict.fromkeys([reference_rule(env), *asked]))


def _plays_by_default(name: str, kind: type[Agent], env: str, policies: Sequence[str]) -> bool:
    from llmo.catalog.tuned import tuned_parameters
    from llmo.mdp.spec import env_spec

    if kind.grid and not tuned_parameters(name, env):
        return False
    if kind.search or kind.members > 1 or kind.control or issubclass(kind, OptimizerAgent):
        return False
    return not issubclass(kind, LearningAgent) or _knows(kind, env_spec(env).space, policies)


def _knows(kind: type[LearningAgent], space: Space, policies: Sequence[str]) -> bool:
    """Whether a learned agent plays such environments by some policies, or else by the one that comes with it."""
    try:
        for policy in policies or [""]:
            kind(policy=policy).bind(space)  # type: ignore[call-arg]
    except LlmoError:
        return False
    return True


def _jobs(
    env: str, split: str, indices: range, names: list[str], policies: list[str], seed: int, speedup: bool
) -> list[Job]:
    """Every agent, with every seed that it has, on every instance and budget.

    Raises:
        LlmoError: There is a policy that nobody plays, or none for a learned agent.
    """
    from llmo import catalog
    from llmo.evaluation.members import member_jobs
    from llmo.evaluation.result import policy_job

    learners = [name for name in names if issubclass(catalog.get("agents", name), LearningAgent)]
    if policies and not learners:
        raise LlmoError("policy", ",".join(policies), "none: no agent plays one")
    jobs: list[Job] = []
    for name in names:
        learned = name in learners
        for budget in (1.0, *(SPEEDUP_BUDGETS if speedup else ())):
            for index in indices:
                if learned:
                    seeds = enumerate(policies or [""], seed)
                    jobs += [policy_job(env, split, index, name, folder, s, budget) for s, folder in seeds]
                else:
                    jobs += member_jobs(env, split, index, name, seed, budget)
    return jobs


def _check(jobs: list[Job]) -> None:
    """Find out before anything is played whether everything can be.

    Raises:
        LlmoError: There is no such environment or policy, or it does not fit.
    """
    from llmo import catalog
    from llmo.mdp.spec import env_spec

    space = env_spec(jobs[0].env).space
    for agent, parameters in dict.fromkeys((job.agent, job.parameters) for job in jobs):
        catalog.make_agent(agent, **dict(parameters)).bind(space)
