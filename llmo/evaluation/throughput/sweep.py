"""Replica-steps per second over the number of replicas, model size, tokens and executor: what the picture shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from llmo.engine.models import ModelShape
from llmo.errors import LlmoError
from llmo.evaluation.throughput.populations import EXECUTORS, UNIT
from llmo.evaluation.throughput.problems import LARGE, SMALL, Setup, loaded_run
from llmo.evaluation.throughput.row import Row, alone, missing
from llmo.evaluation.throughput.timing import Effort, in_turn

NAME = "sweep"
SHAPES = (ModelShape(16, 1), ModelShape(32, 2), SMALL, LARGE)
"""Llamas of 10 and 40 thousand, 0.1 and 1 million parameters."""
BATCHES = ((2, 32), (8, 64))
"""Sequences, and tokens in each, of an optimizer step."""
REPLICAS = (1, 2, 4, 8, 16, 32, 64)
MOST_STEPS, WORK = 8, 3e8
"""Most optimizer steps of an interval, and about how many parameters times tokens: a point takes about a second."""
COMPILED_FROM = 2.0
"""Scale from which all shapes are compiled."""


def sweep(effort: Effort) -> Iterator[Row]:
    """Replica-steps of plain populations of all sizes; `single` takes them one after another, whatever N is."""
    for sequences, tokens in BATCHES:
        for shape in SHAPES:
            setup = Setup(shape, REPLICAS[-1], sequences, tokens)
            each = setup.workload.parameters * setup.workload.tokens
            setup = replace(setup, steps=max(1, min(MOST_STEPS, int(WORK / each))))
            for executor in EXECUTORS:
                # Compiling takes longer than measuring; this shape is compiled for other rows anyway.
                if executor != "compiled" or effort.scale >= COMPILED_FROM or shape == SMALL:
                    yield from _points(setup, executor, effort)


def _points(setup: Setup, executor: str, effort: Effort) -> Iterator[Row]:
    try:
        run = loaded_run(setup, executor)
    except LlmoError as error:
        yield missing(NAME, setup.workload, UNIT, str(error), executor=executor)
        return
    for replicas in REPLICAS[:1] if executor == "single" else REPLICAS:
        (found,) = in_turn({executor: partial(run.train, range(replicas))}, 0.3 * effort.scale).values()
        workload = setup.workload._replace(replicas=replicas)
        yield alone(NAME, workload, replicas * setup.steps / found, UNIT, executor=executor, note=str(setup))
