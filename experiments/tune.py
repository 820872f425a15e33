"""Tunes the hand rules on train instances: what `agents/tuned.json` ships. Test text is not read.

llmo tune --out runs/tune --ship
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmo import catalog
from llmo.agent import OptimizerAgent
from llmo.atomic import write_text_atomic
from llmo.catalog.tuned import FILE, everything, reference_rule
from llmo.errors import LlmoError, needs_extra
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from llmo.evaluation.result import Job
    from llmo.evaluation.workers import Workers

REFERENCES = ("constant", "cosine")
"""The better of these is what benchmarks are relative to."""


def tunable(names: Sequence[str] | None) -> dict[str, type[Any]]:
    """The agents that have a grid, by name; all of them for None.

    Raises:
        LlmoError: There is no such agent, it has no grid, or Optuna is not installed and one of them needs it.
    """
    catalog.load("agents")
    registry = catalog.KINDS["agents"]
    found = {name: registry.get(name) for name in registry.names() if getattr(registry.get(name), "grid", None)}
    for name in names or ():
        if name not in found:
            raise LlmoError("agent to tune", name, found)
    chosen = {name: found[name] for name in names or found}
    if drawn := [name for name, agent in chosen.items() if agent.trials]:
        needs_extra(f"tuning of {', '.join(drawn)}", "optuna", "tune")
    return chosen


def defaults(agent: type[Any]) -> dict[str, Any]:
    """The values of the parameters on the grid that an agent has untuned."""
    parameters = inspect.signature(agent).parameters
    return {name: parameters[name].default for name in agent.grid}


def episode_file(job: Job) -> Path:
    """Where a job's file lies: by rule, by parameters, by instance."""
    folder = ",".join(f"{name}={value}" for name, value in job.parameters)
    return Path(job.agent, folder, f"{job.index:05d}.jsonl")


@experiments.register("tune")
def tune(
    out: Path = Path("runs/tune"),
    instances: int = 64,
    agents: list[str] | None = None,
    env: str = "llmo/LanguageModel-v1",
    workers: str | int = "processes",
    executor: Literal["batched", "compiled"] = "batched",
    ship: bool = False,
    resume: bool = False,
) -> None:
    """Tune the hand rules on train instances.

    Args:
        out: Folder for `tuned.json` and for every episode.
        instances: How many train instances, from index 0.
        agents: Which rules; all that have a grid by default.
        env: Registered name of the environment.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        executor: ``compiled`` plays faster, after a minute of compiling for each model shape.
        ship: Whether to write them into `agents/tuned.json` too; some rules join others that were tuned on the same
            instances.
        resume: Whether to continue in a folder that has episodes already.
    """
    given = locals().copy()
    from llmo.evaluation.provenance import command
    from llmo.evaluation.workers import find_workers
    from llmo.mdp.spec import env_spec

    if instances < 2:
        raise LlmoError("instances", instances, "at least 2")
    classes = tunable(agents)
    found = find_workers(workers)
    env_spec(env)
    if ship and agents:
        others_shipped(env, instances, classes)
    with RunDir(out, resume) as run:
        result = search_rules(run.path, classes, env, instances, found, executor, command("tune", tune, given))
        write_text_atomic(out / "tuned.json", json.dumps(result, indent=1) + "\n")
        if ship:
            # What was shipped while this ran is kept.
            everything.cache_clear()
            others = others_shipped(env, instances, classes) if agents else {}
            whole = result | named({**others, **result["rules"]}, env)
            write_text_atomic(catalog.ROOT / FILE, json.dumps({**everything(), env: whole}, indent=1) + "\n")
    print(table(result))


def search_rules(
    folder: Path,
    classes: dict[str, type[Any]],
    env: str,
    count: int,
    workers: Workers,
    executor: Literal["batched", "compiled"],
    command: str,
) -> dict[str, Any]:
    """Tune some rules.

    Args:
        folder: Where episodes are kept.
        classes: The rules' classes by registered name.
        env: Registered name of the environment.
        count: How many train instances.
        workers: Who plays.
        executor: How.
        command: What each rule says it was tuned by.

    Returns:
        The content of `tuned.json`.
    """
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.provenance import provenance
    from llmo.evaluation.tuning import BASE, Instances, search, search_all, search_jointly, summary
    from llmo.mdp.spec import env_spec

    drawn = {index: env_spec(env).draw("train", index, 1.0) for index in range(count)}
    starts, groups = ({i: getattr(one, name) for i, one in drawn.items()} for name in ("start", "text_group"))
    instances = Instances(env, starts, groups)
    steps: dict[str, int] = dict.fromkeys((*classes, BASE[0]), 0)

    def play(jobs: list[Job]) -> dict[Job, float]:
        played = [replace(job, executor=executor) for job in jobs]
        records = play_all(played, folder / "episodes", workers, what="tuning", place=episode_file)
        for record in records:
            steps[record.result.job.agent] += len(record.decisions)
        return {job: record.result.validation_loss for job, record in zip(jobs, records, strict=True)}

    searches = {
        name: search_jointly(name, agent.grid, defaults(agent), instances, agent.trials)
        if agent.trials
        else search(name, agent.grid, defaults(agent), instances)
        for name, agent in classes.items()
    }
    found, losses = search_all(searches, play)
    facts = provenance()
    made = {"commit": facts.pop("commit"), "command": command}
    rules = {
        name: summary(name, agent.grid, found[name], instances, losses) | {"env_steps": steps[name], **made}
        for name, agent in classes.items()
    }
    return {
        **named(rules, env),
        "env": env,
        "split": "train",
        "instances": count,
        **facts,
    }


def named(rules: Mapping[str, Any], env: str) -> dict[str, Any]:
    """Some tuned rules, which of them is the best one, and which the reference.

    The best rule is no control, and brings no optimizer of its own.
    """

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: rules[name]["score"]["iqm"])

    kinds = {name: catalog.get("agents", name) for name in rules}
    rivals = [name for name, kind in kinds.items() if not (kind.control or issubclass(kind, OptimizerAgent))]
    references = [name for name in REFERENCES if name in rules]
    return {
        "reference": best(references) if references else reference_rule(env),
        "best_rule": best(rivals),
        "env_steps": sum(rule["env_steps"] for rule in rules.values()),
        "rules": dict(rules),
    }


def others_shipped(env: str, instances: int, tuned: Container[str]) -> dict[str, Any]:
    """The shipped rules that some newly tuned ones join.

    Raises:
        LlmoError: None is shipped for the environment, or they were tuned on other instances or on another text.
    """
    from llmo.evaluation.provenance import provenance

    if env not in everything():
        raise LlmoError(
            "environment of some rules to ship", env, f"one that has rules, {list(everything())}; else all rules"
        )
    entry = everything()[env]
    for name, value in {"instances": instances, "corpus_sha256": provenance()["corpus_sha256"]}.items():
        if entry.get(name) != value:
            raise LlmoError(f"{name} of rules to ship with others", value, f"that of the others, {entry.get(name)}")
    return {name: rule for name, rule in entry["rules"].items() if name not in tuned}


def table(result: dict[str, Any]) -> str:
    """The result, for people: the best rule first, with a warning for each optimum at the edge of its grid."""
    header = f"percent better validation loss than the constant default rate, {result['instances']} train instances"
    rows = [("rule", "IQM", "95% interval", "scratch", "pretrained", "env steps", "parameters")]
    rules = sorted(result["rules"].items(), key=lambda item: -item[1]["score"]["iqm"])
    for name, rule in rules:
        score = rule["score"]
        parts = [f"{score[start]:+.2f}" if start in score else "-" for start in ("scratch", "pretrained")]
        interval = f"[{score['low']:+.2f}, {score['high']:+.2f}]"
        parameters = " ".join(f"{key}={value}" for key, value in rule["parameters"].items())
        rows.append((name, f"{score['iqm']:+.2f}", interval, *parts, str(rule["env_steps"]), parameters))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    warnings = [
        f"{name}: the best {parameter} is at the edge of its grid"
        for name, rule in rules
        for parameter in rule["at_edge"]
    ]
    names = f"reference {result['reference']}, best rule {result['best_rule']}, {result['env_steps']} env steps in all"
    return "\n".join([header, *lines, names, *warnings])
