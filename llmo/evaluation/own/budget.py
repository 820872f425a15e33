"""What a budget in minutes, epochs or FLOPs is in FLOPs, and what a probe of some seconds says of a model."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace

from llmo.engine.memory import out_of_memory
from llmo.engine.ranks import agreed
from llmo.engine.run import Run
from llmo.engine.single import SingleSettings
from llmo.errors import LlmoError
from llmo.mdp.own import STEPS, OwnProblem, own_cost, own_spec
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.labelled import Labelled

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
PROBE_SECONDS = 3.0
"""How long a probe trains, about."""
PROBE_STEPS = 3
"""Fewest optimizer steps that are timed; one before them is not."""
_BUDGET = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?) ?(s|min|h|epochs?|flops?)")


@dataclass(frozen=True)
class Budget:
    """How much may be spent.

    Attributes:
        amount: Positive.
        unit: ``s``, ``epoch`` or ``flop``.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget such as ``10min``, ``3epochs`` or ``2e14flops``.

        Raises:
            LlmoError: It is none.
        """
        match = _BUDGET.fullmatch(text.strip().lower())
        if match is None or float(match[1]) <= 0:
            raise LlmoError("budget", text, "a positive number of s, min, h, epochs or flops, such as 10min")
        amount, unit = float(match[1]), match[2].removesuffix("s") if len(match[2]) > 1 else match[2]
        return cls(amount * SECONDS[unit], "s") if unit in SECONDS else cls(amount, unit)


@dataclass(frozen=True)
class Probe:
    """What training a model costs here.

    Attributes:
        accumulation: In how many micro-batches memory holds them.
        step_seconds: Of an optimizer step.
        flops_per_second: FLOPs of a step over its time.
        epoch_flops: FLOPs of one pass over the training data.
        look_flops: FLOPs of a validation pass.
    """

    accumulation: int
    step_seconds: float
    flops_per_second: float
    epoch_flops: float
    look_flops: float

    def flops(self, budget: Budget) -> float:
        """A budget in FLOPs; validation passes come on top of epochs."""
        match budget.unit:
            case "s":
                return budget.amount * self.flops_per_second
            case "epoch":
                return budget.amount * self.epoch_flops + (STEPS + 1) * self.look_flops
        return budget.amount


def probe(own: OwnProblem, single: SingleSettings, device: str) -> Probe:
    """Train some steps, in more and smaller parts while memory does not hold them.

    Args:
        own: What is to be improved; its budget does not matter.
        single: How it is trained; its accumulation is where the search begins.
        device: Where.

    Raises:
        LlmoError: Memory holds not even one sequence.
    """
    accumulation = single.accumulation
    while True:
        try:
            return _probe(own, replace(single, accumulation=accumulation), device)
        except LlmoError as error:
            if error.what != "memory" or 2 * accumulation > own.batch:
                raise
            accumulation *= 2


def _probe(own: OwnProblem, single: SingleSettings, device: str) -> Probe:
    cost = own_cost(own)
    look = len(own.task.validation.inputs) * cost.forward
    # A budget without end, in intervals of one step.
    spec = own_spec(replace(own, budget=STEPS * 2 * (look + own.batch * cost.train)))
    run = Run(own.model, 1, "single", bool(own.rank), device, single)
    problem = replace(spec.build(spec.draw("test", 0, 1.0)), interval=1, budget=1e30)
    run.load(0, problem)
    try:
        run.evaluate([0])
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise LlmoError("memory", " ".join(str(error).split())[:200], "a smaller batch or shorter sequences") from error
    run.train([0])
    started, steps = time.perf_counter(), 0
    # Processes that train together have clocks of their own, and all have to take as many steps.
    while steps < PROBE_STEPS or agreed(time.perf_counter() - started < PROBE_SECONDS):
        run.train([0])
        steps += 1
    seconds = (time.perf_counter() - started) / steps
    step = own.batch * cost.train
    return Probe(single.accumulation, seconds, step / seconds, epoch_sequences(own) * cost.train, look)


def epoch_sequences(own: OwnProblem) -> float:
    """Sequences in one pass over the training data."""
    task = own.task
    if isinstance(task, CausalLM):
        return sum(task.sizes[: own.sources]) / task.tokens
    assert isinstance(task, Labelled)
    return float(sum(task.examples[: own.sources]))
