"""What compiling a population's program costs, and how exact it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch

from llmo.engine.compiled import TOLERANCE, Compiled
from llmo.engine.executors import Batch
from llmo.engine.models import ModelShape
from llmo.errors import LlmoError
from llmo.evaluation.throughput.fresh import in_fresh_python
from llmo.evaluation.throughput.problems import SMALL, Setup, loaded_run, plain_problem
from llmo.evaluation.throughput.row import Row, Target, alone, missing
from llmo.evaluation.throughput.timing import Effort

NAME = "compile"
REPLICAS = 8


def compile_time(effort: Effort) -> Iterator[Row]:
    """Seconds that compiling takes, with nothing cached and with everything, and the error of what was compiled."""
    setup = Setup(SMALL, REPLICAS)
    try:
        loaded_run(setup, "compiled")
    except LlmoError as error:
        yield missing(NAME, setup.workload, "s", str(error), executor="compiled")
        return
    found: dict[str, list[float]] = {"cold": [], "warm": [], "error": []}
    for _ in range(effort.times(1)):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "warm"):
                seconds, difference = in_fresh_python(
                    compiled, SMALL.width, SMALL.depth, TORCHINDUCTOR_CACHE_DIR=folder
                )
                found[state].append(seconds)
                found["error"].append(difference)
    graphs = f"a graph to train and one to validate, {setup}"
    for state, note in (("cold", "nothing cached"), ("warm", "everything cached on disk")):
        yield alone(NAME, setup.workload, found[state], "s", executor="compiled", note=f"{graphs}, {note}")
    yield alone(
        NAME, setup.workload, found["error"], "relative error", Target("at most", TOLERANCE),
        executor="compiled", note="of the gradients of all replicas, against the program that is not compiled",
    )  # fmt: skip


def compiled(width: int, depth: int) -> tuple[float, float]:
    """Seconds that compiling takes in this process, and the relative error of a gradient."""
    setup = Setup(ModelShape(width, depth), REPLICAS)
    run = loaded_run(setup, "compiled")
    executor, rows = run.executor, range(REPLICAS)
    assert isinstance(executor, Compiled)
    task = plain_problem(setup, 0).task
    inputs, labels = (
        part[: REPLICAS * setup.batch].view(REPLICAS, setup.batch, -1) for part in vars(task.validation).values()
    )
    batch, weights = Batch(inputs, labels, type(task).loss), run.effective(rows)
    run.evaluate(rows)
    _, found = executor.gradient(weights, batch)
    _, right = executor.program.gradient(weights, batch)
    return executor.seconds, (torch.linalg.vector_norm(found - right) / torch.linalg.vector_norm(right)).item()
