"""The report of a comparison: a page with pictures, from `scores.json`, the episodes and the training's record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmo.atomic import write_text_atomic
from llmo.errors import LlmoError
from llmo.evaluation import plots, sections
from llmo.evaluation.html import page
from llmo.evaluation.result import EpisodeRecord, load_records

FIELDS = (
    "env", "split", "instances", "text_groups", "reference", "best_rule", "budget_flops", "commit", "versions",
    "corpus_sha256", "agents", "pairs", "speedup",
)  # fmt: skip
NUMBERS = (
    "iqm", "low", "high", "mean", "worst_decile", "probability_of_improvement", "flops", "search_flops", "wall_s",
    "seeds",
)  # fmt: skip


def write_report(folder: Path, train: Path | None = None) -> Path:
    """Make `folder/report.html` and the pictures in `folder/report`.

    Args:
        folder: What `llmo benchmark` or `llmo demo` wrote: `scores.json` and `episodes`.
        train: Folder of the training whose learning curve is shown; by default `folder/train`, where there is one.

    Returns:
        Path of the page.

    Raises:
        LlmoError: Something is missing, or was not written by these commands.
    """
    scores = read_scores(folder / "scores.json")
    records = load_records(folder / "episodes")
    progress = read_progress((train or folder / "train") / "progress.jsonl", needed=train is not None)
    pair = typical_episode(scores, records)
    command = f"llmo report {folder}" + (f" --train {train}" if train else "")
    parts = [*sections.head(scores, command), *sections.results(scores)]
    parts += sections.comparison(scores, folder / "report")
    if progress:
        parts += sections.learning(progress, folder / "report")
    if pair:
        parts += sections.episode(*pair, folder / "report")
    write_text_atomic(folder / "report.html", page(f"{len(scores['agents'])} agents on {scores['env']}", parts))
    return folder / "report.html"


def read_scores(path: Path) -> dict[str, Any]:
    """The content of `scores.json`.

    Raises:
        LlmoError: There is no such file, or it was not written by `llmo benchmark`.
    """
    allowed = "a scores.json that `llmo benchmark` wrote"
    try:
        scores: dict[str, Any] = json.loads(path.read_text())
        missing = [field for field in FIELDS if field not in scores]
        for name, agent in scores["agents"].items():
            missing += [f"{field} of {name}" for field in NUMBERS if not isinstance(agent.get(field), int | float)]
            missing += [f"kind of {name}"] * (agent.get("kind") not in plots.KINDS)
            missing += [f"scores of {name}"] * (len(agent.get("scores", [])) != scores["instances"])
            others = scores["agents"].keys() - {name}
            missing += [f"{name} against {other}" for other in sorted(others - scores["pairs"][name].keys())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LlmoError("scores", str(path), f"{allowed} ({type(error).__name__}: {error})") from error
    if scores["reference"] not in scores["agents"]:
        missing.append(f"the reference {scores['reference']}")
    if missing:
        raise LlmoError("scores", str(path), f"{allowed} (it lacks {missing[0]})")
    return scores


def read_progress(path: Path, needed: bool) -> list[dict[str, Any]]:
    """The lines of a training's `progress.jsonl`; none where there is no file and none is needed.

    Raises:
        LlmoError: A file that is needed is not there, or it is no such record.
    """
    if not needed and not path.exists():
        return []
    try:
        whole = path.read_text().rpartition("\n")[0]  # a training that still runs may be writing its last line
        lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        for line in lines:
            float(line["env_steps"]), float(line["return"] or 0), float(line.get("reference_return") or 0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        allowed = f"a progress.jsonl that `llmo train` wrote ({type(error).__name__}: {error})"
        raise LlmoError("record of training", str(path), allowed) from error
    return lines


def typical_episode(
    scores: Mapping[str, Any], records: Sequence[EpisodeRecord]
) -> tuple[EpisodeRecord, EpisodeRecord] | None:
    """The episode whose score is nearest to its agent's IQM, of the best learned agent or else the best rule.

    Returns:
        It and the reference's on the same instance; None if nobody but the reference and search agents were played, or
        their decisions were not kept.

    Raises:
        LlmoError: The episodes are not those that were scored.
    """
    agents, reference = scores["agents"], scores["reference"]
    order = [name for name in plots.by_iqm(scores) if name != reference and not agents[name]["search"]]
    order.sort(key=lambda name: agents[name]["kind"] != "learned")
    if not order or not any(record.decisions for record in records):
        return None
    name = order[0]
    scored: dict[str, set[int]] = {name: set(), reference: set()}
    played: dict[str, dict[int, EpisodeRecord]] = {name: {}, reference: {}}
    for record in records:
        job = record.result.job
        if job.agent in played and job.budget == 1:
            scored[job.agent].add(job.index)
            # Of episodes that came from an archive, only the results were kept.
            if record.decisions:
                played[job.agent].setdefault(job.index, record)
    if not scored[name] & scored[reference]:
        raise LlmoError("episodes", f"of {name}, none", f"those of scores.json, on instances of {reference}'s")
    both = sorted(played[name].keys() & played[reference].keys())
    if not both:
        return None

    def distance(index: int) -> float:
        ours, theirs = played[name][index].result.test_loss, played[reference][index].result.test_loss
        return abs(100 * math.log(theirs / ours) - agents[name]["iqm"])

    index = min(both, key=distance)
    return played[name][index], played[reference][index]
