"""The population step on a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch

from llmo.errors import LlmoError
from llmo.evaluation.throughput.bare import BareLoop, bare_model
from llmo.evaluation.throughput.populations import UNIT
from llmo.evaluation.throughput.problems import SMALL, Setup, loaded_run, plain_problem
from llmo.evaluation.throughput.row import Row, compared, missing
from llmo.evaluation.throughput.timing import Effort, in_turn

NAME = "gpu-population"
DEVICE = "cuda"
EXECUTORS = ("batched", "compiled")


def gpu_population(effort: Effort) -> Iterator[Row]:
    """256 replicas in one program on a GPU, 2 x 32 tokens, against a plain loop on the same GPU."""
    setup = Setup(SMALL, 256)
    if not torch.cuda.is_available():
        for executor in EXECUTORS:
            yield missing(NAME, setup.workload, UNIT, "this machine has no GPU that torch can use", executor=executor)
        return
    # One loop is enough: one after another, 256 take 256 times as long.
    loop = BareLoop(bare_model(SMALL, 0), plain_problem(setup, 0), DEVICE)
    sides = {"loop": partial(loop.train, setup.steps)}
    for executor in EXECUTORS:
        try:
            run = loaded_run(setup, executor, device=DEVICE)
        except LlmoError as error:
            yield missing(NAME, setup.workload, UNIT, str(error), executor=executor)
        else:
            sides[executor] = partial(run.train, range(setup.replicas))
    # A call ends when its losses have come to the host, so that the clock sees all of its work.
    found = in_turn(sides, 30 * effort.scale, time.perf_counter)
    note = f"{setup}, {torch.cuda.get_device_name()}, against a plain loop"
    for executor in [name for name in EXECUTORS if name in sides]:
        rates = setup.replicas * setup.steps / found[executor], setup.steps / found["loop"]
        yield compared(NAME, setup.workload, *rates, UNIT, executor=executor, note=note)
