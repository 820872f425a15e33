"""Many replicas in one program, against the same ones one after another in plain loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from llmo.errors import LlmoError
from llmo.evaluation.throughput.bare import BareLoop, bare_model, peft_model
from llmo.evaluation.throughput.problems import LARGE, SMALL, Setup, loaded_run, plain_problem
from llmo.evaluation.throughput.row import Row, Target, compared, missing
from llmo.evaluation.throughput.timing import Effort, in_turn

UNIT = "replica-steps/s"
EXECUTORS = ("single", "batched", "compiled")


def full_replicas(effort: Effort) -> Iterator[Row]:
    """32 replicas that train all weights, 2 x 32 tokens, against plain loops one after another."""
    yield from _against_loops("full-replicas", Setup(SMALL, 32), Target("at least", 4), effort)


def long_batches(effort: Effort) -> Iterator[Row]:
    """16 replicas that train all weights, 8 x 64 tokens, against plain loops one after another."""
    yield from _against_loops("long-batches", Setup(SMALL, 16, 8, 64), Target("at least", 1.5), effort)


def lora_replicas(effort: Effort) -> Iterator[Row]:
    """32 replicas with LoRA factors on one frozen base, 2 x 32 tokens, against PEFT models one after another."""
    for shape, least in ((SMALL, 6), (LARGE, 4)):
        yield from _against_loops("lora-replicas", Setup(shape, 32), Target("at least", least), effort, frozen=True)


def _against_loops(name: str, setup: Setup, target: Target, effort: Effort, frozen: bool = False) -> Iterator[Row]:
    """Rows of every executor; `single`, which trains one replica after another too, is there to compare with."""
    make, rows = peft_model if frozen else bare_model, range(setup.replicas)
    loops = [BareLoop(make(setup.shape, seed), plain_problem(setup, seed)) for seed in rows]
    sides: dict[str, Callable[[], object]] = {"loops": partial(_one_after_another, loops, setup.steps)}
    for executor in EXECUTORS:
        try:
            run = loaded_run(setup, executor, frozen)
        except LlmoError as error:
            yield missing(name, setup.workload, UNIT, str(error), target, executor)
        else:
            sides[executor] = partial(run.train, rows)
            flops = run.step_cost(0)
    found = in_turn(sides, 25 * effort.scale)
    rates = {side: setup.replicas * setup.steps / seconds for side, seconds in found.items()}
    against = "PEFT models" if frozen else "plain loops"
    for executor in [side for side in sides if side != "loops"]:
        wanted = None if executor == "single" else target
        note = f"{setup}, {flops * np.median(rates[executor]) / 1e9:.0f} GFLOP/s, against {against}"
        yield compared(
            name, setup.workload, rates[executor], rates["loops"], UNIT, wanted, executor=executor, note=note
        )  # fmt: skip


def _one_after_another(loops: Sequence[BareLoop], steps: int) -> None:
    for loop in loops:
        loop.train(steps)
