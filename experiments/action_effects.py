"""Which improvement helps when: runs are branched by snapshot, and each action is compared with keeping on.

    llmo action_effects --instances 32 --out runs/effects

A branch takes the action once and keeps on behind it. Gains are of the best validation loss after as many FLOPs, one
step later, three steps later and at the end, by phase of the run and by the cause that `diagnose` names there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmo import catalog
from llmo.atomic import write_text_atomic
from llmo.errors import LlmoError, at_least
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from llmo.evaluation.effects import Effect


SHOWN = 5
"""Actions in a row of the table."""


@experiments.register("action_effects")
def action_effects(
    out: Path = Path("runs/effects"),
    env: str = "llmo/LanguageModel-Full-v0",
    bases: tuple[str, ...] = ("keep", "update_ratio"),
    actions: tuple[str, ...] = (),
    before: tuple[str, ...] = (),
    instances: int = 32,
    split: Literal["train", "dev"] = "train",
    executor: Literal["batched", "compiled"] = "batched",
    workers: str | int = "processes",
    resume: bool = False,
) -> None:
    """Measure what each action is worth, by cause and by phase of the run.

    Args:
        out: Folder for `effects.json`, `effects.md`, `effects.png` once there are enough moments for means, and a file
            for every instance.
        env: Registered name of the environment.
        bases: Rules that play until a branch, by turns.
        actions: Only these are tried; by default the whole menu.
        before: Actions that a run takes before it is branched, one a step, such as block_remove for what adds blocks.
        instances: How many instances, from index 0.
        split: ``train`` or ``dev``; test instances are for scoring.
        executor: How branches are trained.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        resume: Whether to continue in a folder that has instances already.

    Raises:
        LlmoError: A rule, an environment or an action is unknown, or a number out of range.
    """
    given = locals().copy()
    from llmo.evaluation.effect_plots import plot_effects
    from llmo.evaluation.effects import Effect, branch, plain, summary
    from llmo.evaluation.progress import Progress
    from llmo.evaluation.provenance import command, provenance
    from llmo.evaluation.spread import spread
    from llmo.evaluation.workers import find_workers
    from llmo.mdp.spec import env_spec

    at_least(1, instances=instances)
    if not bases:
        raise LlmoError("bases", bases, "at least one rule")
    for base in bases:
        catalog.make_agent(base)
    spec = env_spec(env)
    for action in (*actions, *before):
        spec.space.action(action)
    found = find_workers(workers)
    with RunDir(out, resume) as run:
        what = {"env": env, "bases": list(bases), "actions": list(actions), "before": list(before)}
        run.settle({**what, "split": split, "executor": executor})
        files = {index: out / "branches" / f"{index:05d}.json" for index in range(instances)}
        waiting = [index for index, file in files.items() if not file.exists()]
        jobs = [(env, split, index, bases[index % len(bases)], executor, actions, before) for index in waiting]
        with Progress("instances", instances, instances - len(waiting)) as progress:
            for number, effects in spread(branch, jobs, found):
                file = files[waiting[number]]
                file.parent.mkdir(exist_ok=True)
                write_text_atomic(file, json.dumps([plain(effect) for effect in effects]) + "\n")
                progress.advance(1)
        effects = [Effect(**one) for file in files.values() for one in json.loads(file.read_text())]
        content = {
            **what,
            "split": split,
            "instances": instances,
            "command": command("action_effects", action_effects, given),
            **provenance(),
            "moments": _moments(effects),
            "effects": summary(effects),
        }
        write_text_atomic(out / "effects.json", json.dumps(content, indent=1) + "\n")
        write_text_atomic(out / "effects.md", table(content) + "\n")
        if content["effects"]["all"].get("all"):
            plot_effects(content, out / "effects.png")
    print(table(content))


def _moments(effects: Sequence[Effect]) -> dict[str, int]:
    """How many moments there were of each cause and phase."""
    counts = {"all": 0}
    for effect in effects:
        if effect.action == "keep":
            for group in ("all", effect.cause, effect.phase):
                counts[group] = counts.get(group, 0) + 1
    return counts


def table(content: Mapping[str, Any]) -> str:
    """For each cause and phase, the actions that gain most, as a Markdown table."""
    groups = content["effects"]["all"]
    lines = [
        f"Gain over keeping on at the end of the run, in percent of the best validation loss, mean with 95% interval; "
        f"{content['moments']['all']} moments of {content['instances']} {content['split']} runs of {content['env']}.",
        "",
        "| where | moments | what gains most |",
        "| --- | --- | --- |",
    ]
    for group, count in content["moments"].items():
        rows = sorted(groups.get(group, {}).items(), key=lambda item: -item[1]["mean"])[:SHOWN]
        told = "; ".join(f"`{name}` {row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]" for name, row in rows)
        lines.append(f"| {group} | {count} | {told or 'too few moments'} |")
    return "\n".join(lines)
