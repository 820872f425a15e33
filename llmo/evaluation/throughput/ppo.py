"""PPO at work end to end, against a checkout of another version of llmo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llmo.engine.choice import COMPILED_FROM, population_executor
from llmo.errors import LlmoError, WorkerError
from llmo.evaluation.processes import cores
from llmo.evaluation.throughput.problems import ENV, Setup
from llmo.evaluation.throughput.row import Row, Target, alone, compared
from llmo.evaluation.throughput.timing import Effort
from llmo.mdp.sizes import SHAPES

REPLICAS = 64
ROLLOUT = 16
"""Environment steps in each slot before an update of `ppo`."""
UPDATES = 2
"""Of a training; the first one is not counted, since what is compiled is compiled before it."""
UNIT = "env steps/s"


def ppo_training(effort: Effort) -> Iterator[Row]:
    """Environment steps of PPO on the default environment, imitation not counted, against `--baseline`."""
    workload, target = Setup(SHAPES["train"][1], REPLICAS).workload, Target("at least", 3)
    processes = min(2, cores())
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(effort.times(2)):
        ours += update_rates(None, processes)
        if effort.baseline is not None:
            theirs += update_rates(effort.baseline, processes)
    note = f"{population_executor(COMPILED_FROM)}, {processes} processes, {REPLICAS} replicas, "
    if effort.baseline is None:
        note += "compared with nothing, since no --baseline names a checkout of another version"
        yield replace(alone("ppo-training", workload, ours, UNIT, note=note), wanted=str(target))
    else:
        note += f"against {effort.baseline.name}"
        yield compared("ppo-training", workload, ours, theirs, UNIT, target, note=note)


def valid_baseline(path: Path | None) -> Path | None:
    """The checkout of another version.

    Raises:
        LlmoError: There is no package `llmo` in it.
    """
    if path is not None and not (path / "llmo" / "__init__.py").is_file():
        raise LlmoError("baseline", str(path), "a checkout of another version of llmo, which has a folder llmo")
    return path


def update_rates(checkout: Path | None, processes: int) -> list[float]:
    """Environment steps per second of each update of a new training but the first.

    Args:
        checkout: Of the version that trains; None for this one.
        processes: That share the population.

    Raises:
        WorkerError: The training has failed.
    """
    words: list[object] = ["--steps", UPDATES * ROLLOUT * REPLICAS, "--replicas", REPLICAS]
    words += ["--demonstrations", 0, "--reward", "gain"]
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout.resolve())
    else:
        # What a training of a usual length takes by default; this one is too short to.
        words += ["--executor", population_executor(COMPILED_FROM)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "train"
        command = [sys.executable, "-m", "llmo", "train", ENV, *map(str, words), "--workers", str(processes)]
        done = subprocess.run([*command, "--out", out], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise WorkerError(f"the training of {checkout or 'this version'} has failed: {last}")
        lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    return [
        (after["env_steps"] - before["env_steps"]) / (after["seconds"] - before["seconds"])
        for before, after in zip(lines, lines[1:])
    ]
