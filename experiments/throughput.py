"""What the engine and the environment cost, in ratios measured side by side: `llmo throughput --out runs/throughput`.

Every ratio is the median over pairs that are timed one right after the other, with its quartiles, so that a busy
machine slows both sides alike. One thread a process.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmo.errors import LlmoError
from llmo.registry import experiments

if TYPE_CHECKING:
    from llmo.evaluation.throughput.row import Row


@experiments.register("throughput")
def throughput(
    out: Path = Path("runs/throughput"),
    scale: float = 1.0,
    rows: list[str] | None = None,
    baseline: Path | None = None,
) -> None:
    """Measure speed and memory against plain loops.

    Args:
        out: Folder for `throughput.json`, which grows row by row, and the picture of the sweep.
        scale: Multiplies how long it measures; positive.
        rows: Names of what to measure, such as `env-step,full-replicas`; all by default.
        baseline: Checkout of the version that PPO's training is compared with.

    Raises:
        LlmoError: The scale is not positive, there is no such row, or the baseline is no checkout.
    """
    # Only the name of the baseline's folder: where it lies is nobody else's business.
    given = locals() | {"baseline": baseline and baseline.name}
    if not 0 < scale < float("inf"):
        raise LlmoError("scale", scale, "a positive number")
    from llmo.atomic import write_text_atomic
    from llmo.evaluation.processes import one_thread
    from llmo.evaluation.provenance import command, provenance
    from llmo.evaluation.throughput.measures import MEASURES, chosen
    from llmo.evaluation.throughput.picture import plot_sweep
    from llmo.evaluation.throughput.ppo import valid_baseline
    from llmo.evaluation.throughput.row import line
    from llmo.evaluation.throughput.timing import Effort

    names, effort = chosen(rows), Effort(scale, valid_baseline(baseline))
    out.mkdir(parents=True, exist_ok=True)
    one_thread()
    origin = {"command": command("throughput", throughput, given), **provenance()}
    found: list[Row] = []
    for name in names:
        for row in MEASURES[name](effort):
            found.append(row)
            print(line(row), flush=True)
            content = {"rows": [asdict(row) for row in found], **origin}
            write_text_atomic(out / "throughput.json", json.dumps(content, indent=1) + "\n")
        if name == "sweep":
            plot_sweep(found, out / "sweep.png")
    judged = [row.met for row in found if row.met is not None]
    print(f"{sum(judged)} of {len(judged)} targets met; wrote {out / 'throughput.json'}")
