"""Headroom: how much good decisions can be worth, by rollout search against the best tuned rule and the reference.

Search looks ahead outside the budget, so it is no rival but an upper mark: it shows that decisions matter.

    llmo headroom --out runs/headroom
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmo.atomic import write_text_atomic
from llmo.catalog.tuned import best_rule, reference_rule
from llmo.errors import at_least
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from llmo.evaluation.result import Result

SEARCHES = ("search_1", "search_3", "search_full")
SEARCHED_TOGETHER = 4
"""Runs of a search agent in one population; each has some twenty branches."""
SUBSETS = ("all", "scratch", "pretrained")


@experiments.register("headroom")
def headroom(
    out: Path = Path("runs/headroom"),
    instances: int = 16,
    split: Literal["train", "dev", "test"] = "train",
    env: str = "llmo/LanguageModel-v1",
    workers: str | int = "processes",
    resume: bool = False,
) -> None:
    """Measure what good decisions can be worth.

    Args:
        out: Folder for `headroom.json` and for every episode.
        instances: How many instances, from index 0.
        split: ``train``, ``dev`` or ``test``.
        env: Registered name of the environment.
        workers: ``0`` for this process, ``N`` or ``processes:N``, ``processes`` for one a core, ``ray`` or ``ray:N``.
        resume: Whether to continue in a folder that has episodes already.
    """
    given = locals().copy()
    from llmo.evaluation.episodes import play_all
    from llmo.evaluation.provenance import command, provenance
    from llmo.evaluation.result import tuned_job
    from llmo.evaluation.scoring_log import log_scoring
    from llmo.evaluation.workers import find_workers
    from llmo.mdp.spec import env_spec

    found = find_workers(workers)
    env_spec(env)
    at_least(1, instances=instances)
    reference, rule = reference_rule(env), best_rule(env)
    agents = list(dict.fromkeys((reference, rule, "keep", *SEARCHES)))
    results = []
    with RunDir(out, resume):
        for agent in agents:
            jobs = [tuned_job(env, split, index, agent) for index in range(instances)]
            replicas = SEARCHED_TOGETHER if agent in SEARCHES else 64
            records = play_all(jobs, out / "episodes", found, replicas, what=agent)
            results += [record.result for record in records]
        content = {
            "env": env,
            "split": split,
            "instances": instances,
            "reference": reference,
            "best_rule": rule,
            "command": command("headroom", headroom, given),
            **provenance(),
            "agents": score(results, reference),
        }
        write_text_atomic(out / "headroom.json", json.dumps(content, indent=1) + "\n")
        scores = {name: row["all"]["iqm"] for name, row in content["agents"].items()}
        log_scoring(split, content["command"], scores)
    print(table(content))


def score(results: Sequence[Result], reference: str) -> dict[str, Any]:
    """Percent of test loss by which each agent is better than the reference, with its interval, and its search's cost.

    Args:
        results: Of every agent on the same instances.
        reference: Name of the agent that scores are relative to.
    """
    import numpy as np

    from llmo.evaluation.statistics import Bootstrap, iqm

    base = {result.job.index: result.test_loss for result in results if result.job.agent == reference}
    agents: dict[str, Any] = {}
    for name in dict.fromkeys(result.job.agent for result in results):
        own = [result for result in results if result.job.agent == name]
        row: dict[str, Any] = {}
        for subset in SUBSETS:
            part = [result for result in own if subset in ("all", result.start)]
            if not part:
                continue
            values = np.array([100 * math.log(base[result.job.index] / result.test_loss) for result in part])
            low, high = Bootstrap([result.text_group for result in part]).interval(values[None])
            row[subset] = {"iqm": iqm(values), "low": low, "high": high, "instances": len(part)}
        searched = [result.search_flops / result.budget_flops for result in own]
        agents[name] = row | {"search_budgets": sum(searched) / len(searched)}
    return agents


def table(content: dict[str, Any]) -> str:
    """The result, for people; the last column is what search cost, in budgets of the run itself."""
    played = f"{content['instances']} {content['split']} instances"
    title = f"percent better test loss than {content['reference']}, IQM over {played}"
    rows = [("agent", *SUBSETS, "search, in budgets")]
    for name, row in content["agents"].items():
        cells = [
            f"{row[subset]['iqm']:+.2f} [{row[subset]['low']:+.2f}, {row[subset]['high']:+.2f}]"
            if subset in row
            else "-"
            for subset in SUBSETS
        ]
        rows.append((name, *cells, f"{row['search_budgets']:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        [
            title,
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        ]
    )
