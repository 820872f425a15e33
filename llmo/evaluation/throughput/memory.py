"""Peak memory of whole processes: each side does its work in a new one, and says how much memory it needed at most."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from llmo.engine.models import ModelShape
from llmo.evaluation.throughput.bare import BareLoop, peft_model
from llmo.evaluation.throughput.fresh import in_fresh_python
from llmo.evaluation.throughput.problems import LARGE, SMALL, STEPS, Setup, loaded_run, plain_problem
from llmo.evaluation.throughput.row import Row, Target, compared
from llmo.evaluation.throughput.single_run import Keeping, bare_loop
from llmo.evaluation.throughput.timing import Effort

INTERVALS = 3
"""Environment steps, or as much of a bare loop."""
REPLICAS = 32

Side = Callable[[int, int], float]
"""Width and depth of a model to the peak of a process that does the work, MB."""


def env_step_memory(effort: Effort) -> Iterator[Row]:
    """Peak memory of a process that steps the environment, N = 1, against one with a bare loop."""
    target = Target("at most", 1.02)
    for shape in (SMALL, LARGE):
        ours, theirs = _peaks((environment, bare), shape, effort.times(2))
        note = f"Llama {shape}, libraries included"
        yield compared(
            "env-step-memory", Setup(shape).workload, ours, theirs, "MB", target, executor="single", note=note
        )


def lora_memory(effort: Effort) -> Iterator[Row]:
    """Peak memory of 32 LoRA replicas in one program, against 32 PEFT models one after another."""
    setup, target = Setup(LARGE, REPLICAS), Target("at most", 1.5)
    ours, dropped, kept = _peaks((population, peft_in_turn, peft_side_by_side), LARGE, effort.times(2))
    note = f"Llama {LARGE}, libraries included, against PEFT models each made, trained and dropped"
    yield compared("lora-memory", setup.workload, ours, dropped, "MB", target, executor="batched", note=note)
    note = f"Llama {LARGE}, libraries included, against PEFT models that are all kept, as those of the population are"
    yield compared("lora-memory", setup.workload, ours, kept, "MB", executor="batched", note=note)


def _peaks(sides: tuple[Side, ...], shape: ModelShape, rounds: int) -> list[list[float]]:
    """Peaks of each side, one a round."""
    found = [[in_fresh_python(side, shape.width, shape.depth) for side in sides] for _ in range(rounds)]
    return [list(peaks) for peaks in zip(*found, strict=True)]


def environment(width: int, depth: int) -> float:
    """Peak of some environment steps, MB."""
    env = Keeping(ModelShape(width, depth))
    for _ in range(INTERVALS):
        env.step()
    return _peak()


def bare(width: int, depth: int) -> float:
    """Peak of the same training in a bare loop, MB."""
    loop = bare_loop(ModelShape(width, depth))
    for _ in range(INTERVALS):
        loop.interval(STEPS)
    return _peak()


def population(width: int, depth: int) -> float:
    """Peak of an interval of LoRA replicas in one program, MB."""
    loaded_run(Setup(ModelShape(width, depth), REPLICAS), "batched", frozen=True).train(range(REPLICAS))
    return _peak()


def peft_in_turn(width: int, depth: int) -> float:
    """Peak of an interval of PEFT models, each dropped before the next is made, MB."""
    for seed in range(REPLICAS):
        _peft_loop(width, depth, seed).train(STEPS)
    return _peak()


def peft_side_by_side(width: int, depth: int) -> float:
    """Peak of an interval of PEFT models that are all kept, MB."""
    loops = [_peft_loop(width, depth, seed) for seed in range(REPLICAS)]
    for loop in loops:
        loop.train(STEPS)
    return _peak()


def _peft_loop(width: int, depth: int, seed: int) -> BareLoop:
    setup = Setup(ModelShape(width, depth))
    return BareLoop(peft_model(setup.shape, seed), plain_problem(setup, seed))


def _peak() -> float:
    """Peak resident memory of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # In `ru_maxrss` the kernel lets a process begin with the peak of the one that started it, but not here.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
