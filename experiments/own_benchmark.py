"""`llmo improve` against the usual recipes, on several models and data sets: `llmo own_benchmark --config CASES.yaml`.

Every case is improved with each seed, and trained by the usual recipes at the same FLOPs. Test examples are pooled over
the seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmo.atomic import write_text_atomic
from llmo.errors import LlmoError, at_least
from llmo.registry import experiments
from llmo.run_dir import RunDir

if TYPE_CHECKING:
    from llmo.evaluation.own.scoring import Score

OURS = "improved"
LOSSES = "losses.json"


@dataclass(frozen=True)
class Case:
    """A model and data, and how much may be spent on them.

    Attributes:
        model: Folder, name on the hub, or ``scratch:WIDTHxDEPTH``.
        data: Folder, file, or name on the hub.
        task: What is learned.
        budget: Such as ``4e11flops``; in FLOPs, so that every machine does the same.
        columns: Which column is what, as in ``text=body``; by default guessed.
        batch: Sequences in an optimizer step.
        lora: Rank of LoRA factors; 0 trains all weights.
    """

    model: str
    data: str
    task: str
    budget: str
    columns: list[str] = field(default_factory=list)
    batch: int = 16
    lora: int = 0

    @property
    def name(self) -> str:
        """What it is called in tables and folders."""
        return f"{Path(self.data).name}-{Path(self.model).name.replace(':', '-')}"


@experiments.register("own_benchmark")
def own_benchmark(
    cases: list[Case],
    out: Path = Path("runs/own"),
    seeds: int = 5,
    agent: str = "ppo",
    policy: str = "",
    resume: bool = False,
) -> None:
    """Compare an agent with the usual recipes on models and data of yours.

    Args:
        cases: What is trained: model, data, task, budget and so on, in a file for `--config`.
        out: Folder for every run and for `own.json`.
        seeds: How many trainings of each.
        agent: Registered name of who decides.
        policy: Folder of a policy for an agent that learns; by default the one that it comes with.
        resume: Continue in the folder.

    Raises:
        LlmoError: Something about a case, or two have one name.
    """
    given = locals().copy()
    from llmo.evaluation.processes import one_thread
    from llmo.evaluation.provenance import command, provenance

    at_least(1, seeds=seeds, cases=len(cases))
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LlmoError("cases", twice[0], "models and data of different names")
    one_thread()
    rows: dict[str, dict[str, Any]] = {}
    with RunDir(out, resume) as run:
        run.settle({"agent": agent, "policy": policy, "cases": [asdict(case) for case in cases]})
        for case in cases:
            runs = [_run(case, out / case.name / f"seed-{seed}", seed, agent, policy) for seed in range(seeds)]
            rows[case.name] = {**asdict(case), **pooled(runs)}
        given["cases"] = "CASES"
        line = command("own_benchmark", own_benchmark, given).replace("CASES", "--config CASES.yaml")
        content = {"command": line, **provenance(), "cases": rows}
        write_text_atomic(out / "own.json", json.dumps(content, indent=1) + "\n")
    print(table(rows))


def _run(case: Case, folder: Path, seed: int, agent: str, policy: str) -> dict[str, Any]:
    """One training by the agent, and one by each of the usual recipes; what a finished one has left is read again."""
    from llmo.evaluation.own.improve import improve_model
    from llmo.evaluation.own.order import Wishes
    from llmo.mdp.own_source import OwnSource, columns_of

    file = folder / LOSSES
    if not file.exists():
        # Where examples are cut off for a test, all seeds have the same.
        source = OwnSource(case.model, case.data, case.task, columns_of(case.columns))  # type: ignore[arg-type]
        wishes = Wishes(case.budget, agent, policy, case.batch, case.lora, seed)
        print(f"{case.name}, seed {seed}")
        result = improve_model(wishes.order(source.open(seed)), folder, resume=True, against=True)
        scores = {OURS: result.after, **result.rivals}
        write_text_atomic(file, json.dumps({name: _stored(score) for name, score in scores.items()}))
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _stored(score: Score) -> dict[str, Any]:
    return {"losses": score.losses.tolist(), "weights": score.weights.tolist(), "metrics": score.metrics}


def pooled(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs of a case say together.

    Args:
        runs: For each seed what each recipe has left: losses and weights of test examples, and metrics.

    Returns:
        Metrics of each recipe, averaged; and how much less loss `improved` has than each other, in percent: over the
        examples of all seeds with an interval, a bootstrap over examples, and for each seed.
    """
    import numpy as np

    from llmo.evaluation.own.compare import compare
    from llmo.evaluation.own.scoring import Score

    def score(name: str, chosen: Sequence[Mapping[str, Any]]) -> Score:
        """An example's loss is the mean over the seeds: it is drawn with all of them."""
        weights = np.array(chosen[0][name]["weights"])
        return Score({}, np.mean([run[name]["losses"] for run in chosen], axis=0), weights)

    against = {}
    for name in runs[0]:
        if name != OURS:
            each = [compare(score(OURS, [run]), score(name, [run])).saved for run in runs]
            against[name] = {**asdict(compare(score(OURS, runs), score(name, runs))), "seeds": each}
    metrics = {
        name: {metric: float(np.mean([run[name]["metrics"][metric] for run in runs])) for metric in one["metrics"]}
        for name, one in runs[0].items()
    }
    return {"percent_less_loss": against, "metrics": metrics}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The result as a Markdown table."""
    others = list(next(iter(rows.values()))["percent_less_loss"])
    lines = [
        "percent of test loss saved against each recipe at the same FLOPs, 95% intervals, seeds that are better",
        "",
        f"| case | {' | '.join(others)} |",
        f"| --- |{' --- |' * len(others)}",
    ]
    for name, row in rows.items():
        cells = [_cell(row["percent_less_loss"][other]) for other in others]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any]) -> str:
    better = sum(each > 0 for each in found["seeds"])
    return f"{found['saved']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}], {better} of {len(found['seeds'])}"
