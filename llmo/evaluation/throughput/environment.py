"""What the environment costs beside the engine, and what it costs that the runs of a population differ."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from llmo.engine.models import ModelShape
from llmo.engine.run import Run
from llmo.evaluation.throughput.problems import ENV, Setup, loaded_run
from llmo.evaluation.throughput.row import Row, Target, compared
from llmo.evaluation.throughput.timing import LEAST_ROUNDS, Effort
from llmo.mdp.env import step_info
from llmo.mdp.population import Population, Step
from llmo.mdp.sizes import SHAPES
from llmo.mdp.spec import env_spec

EXECUTOR = "batched"
REPLICAS = 32
INTERVAL = 12
"""Optimizer steps of an interval of the homogeneous populations, about what the instances have."""


def whole_environment(effort: Effort) -> Iterator[Row]:
    """Environment steps of 32 train instances, with features, rewards, masks and infos, against the engine in them."""
    played, clock = Played(), time.process_time
    steps: list[tuple[float, float]] = []
    episodes: list[tuple[float, float]] = []
    with timed_runs("train", "evaluate") as engine:
        end = time.perf_counter() + 20 * effort.scale
        while len(steps) < LEAST_ROUNDS or time.perf_counter() < end:
            started, before = clock(), engine.seconds
            taken = played.step()
            steps.append((clock() - started, engine.seconds - before))
            played.begin(slot for slot, step in taken.items() if step.terminated)
            episodes.append((clock() - started, engine.seconds - before))
    ours, alone = 1e3 * np.array(steps).T
    with_new = np.divide(*np.array(episodes).sum(0))
    yield compared(
        "whole-environment", Setup(SHAPES["train"][1], REPLICAS).workload, ours, alone, "ms", Target("at most", 1.03),
        executor=EXECUTOR, note=f"against train and evaluate in it; {with_new:.3f} in all with the new episodes",
    )  # fmt: skip


def mixed_population(effort: Effort) -> Iterator[Row]:
    """Replica-steps of 32 train instances under random actions, against as many of homogeneous populations."""
    played = Played()
    plain = {shape: loaded_run(Setup(shape, REPLICAS, steps=INTERVAL), EXECUTOR) for shape in SHAPES["train"]}
    rates: list[tuple[float, float]] = []
    with timed_runs("train") as engine:
        end = time.perf_counter() + 25 * effort.scale
        while len(rates) < LEAST_ROUNDS or time.perf_counter() < end:
            before = engine.seconds
            taken = played.step()
            ours, count = engine.seconds - before, played.optimizer_steps(taken)
            alone = 0.0
            for shape, run in plain.items():
                before = engine.seconds
                run.train(range(REPLICAS))
                alone += (engine.seconds - before) * count[shape] / (REPLICAS * INTERVAL)
            rates.append((count.total() / ours, count.total() / alone))
            played.begin(slot for slot, step in taken.items() if step.terminated)
    mixed, homogeneous = np.array(rates).T
    shapes = " and ".join(map(str, plain))
    yield compared(
        "mixed-population", Setup(SHAPES["train"][1], REPLICAS).workload, mixed, homogeneous, "replica-steps/s",
        executor=EXECUTOR, note=f"Llamas {shapes}, against as many steps of plain populations of each",
    )  # fmt: skip


class Played:
    """A population on train instances of the default environment, under random allowed actions."""

    def __init__(self) -> None:
        self.population = Population(env_spec(ENV), REPLICAS, executor=EXECUTOR)
        self._random = np.random.default_rng(0)
        self._indices = itertools.count()
        self.begin(range(REPLICAS))

    def begin(self, slots: Iterable[int]) -> None:
        """Begin the next episode in some slots."""
        draw = self.population.spec.draw
        self.population.reset({slot: draw("train", next(self._indices), 1.0) for slot in slots})

    def step(self) -> dict[int, Step]:
        """One environment step of every slot, and all that is shown before and after it."""
        masks = [self.population.mask(slot) for slot in range(REPLICAS)]
        taken = self.population.step({slot: self._random.choice(mask.nonzero()[0]) for slot, mask in enumerate(masks)})
        for slot, step in taken.items():
            self.population.observe(slot)
            step_info(self.population, slot, step)
        return taken

    def optimizer_steps(self, taken: dict[int, Step]) -> Counter[ModelShape]:
        """How many optimizer steps models of each shape have taken."""
        count: Counter[ModelShape] = Counter()
        for slot, step in taken.items():
            count[self.population.episode(slot).instance.shape] += step.measurement.optimizer_steps
        return count


class Stopwatch:
    """Adds up the processor time of calls.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.process_time() - started

        return timed


@contextmanager
def timed_runs(*methods: str) -> Iterator[Stopwatch]:
    """Time some methods of every `Run`, as long as the context lasts."""
    watch, originals = Stopwatch(), {name: getattr(Run, name) for name in methods}
    for name, method in originals.items():
        setattr(Run, name, watch.around(method))
    try:
        yield watch
    finally:
        for name, method in originals.items():
            setattr(Run, name, method)
