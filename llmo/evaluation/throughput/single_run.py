"""One run at a time: what the environment adds to a bare loop, and what a snapshot costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymSpec

from llmo.engine.models import ModelShape
from llmo.evaluation.throughput.bare import BareLoop, bare_model
from llmo.evaluation.throughput.problems import DEEP, LARGE, SMALL, STEPS, Setup, plain_spec
from llmo.evaluation.throughput.row import Row, Target, compared
from llmo.evaluation.throughput.timing import Effort, in_turn
from llmo.mdp.env import TrainingEnv
from llmo.mdp.population import Population
from llmo.mdp.problem import build_problem
from llmo.mdp.sizes import STEPS as EPISODE

SNAPSHOTS = 20
"""Taken and restored in one timing; one alone is too short."""
LONGEST = EPISODE[1]
"""Environment steps of the longest episode at plain cost."""


class Keeping:
    """The environment as `gymnasium.make` gives it, playing `keep`.

    Args:
        shape: Of the model.
    """

    def __init__(self, shape: ModelShape) -> None:
        spec = plain_spec(shape)
        # Gymnasium's type for makers names arguments of its own.
        make: Any = partial(TrainingEnv, spec, instance=0)
        self.env: Any = gymnasium.make(GymSpec("llmo/Plain-v0", entry_point=make))
        self._keep = spec.menu.index("keep")
        self.env.reset(seed=0)

    def step(self) -> None:
        """One environment step: `STEPS` optimizer steps and a validation pass."""
        self.env.step(self._keep)
        # This episode never ends; what is observed of it is as long as the longest that does.
        history = self.env.unwrapped.population.episode(0).history
        del history.measurements[:-LONGEST], history.actions[:-LONGEST]


def bare_loop(shape: ModelShape) -> BareLoop:
    """The same training without the environment."""
    return BareLoop(bare_model(shape, 0), build_problem(plain_spec(shape).draw("train", 0, 1.0)))


def env_step(effort: Effort) -> Iterator[Row]:
    """An environment step with N = 1, against a bare loop with the same optimizer steps and validation."""
    for shape in (SMALL, DEEP, LARGE):
        ours, bare = Keeping(shape), bare_loop(shape)
        found = in_turn({"env": ours.step, "bare": partial(bare.interval, STEPS)}, 15 * effort.scale)
        note = f"Llama {shape}, {STEPS} optimizer steps and a validation pass"
        yield compared(
            "env-step", Setup(shape).workload, 1e3 * found["env"], 1e3 * found["bare"], "ms", Target("at most", 1.01),
            executor="single", note=note,
        )  # fmt: skip


def snapshot(effort: Effort) -> Iterator[Row]:
    """Snapshot and restore of one run, against one optimizer step of it."""
    for shape in (SMALL, LARGE):
        spec = plain_spec(shape)
        population = Population(spec)
        population.reset({0: spec.draw("train", 0, 1.0)})
        run = population.run_of(0)
        steps = {
            "back": partial(_there_and_back, population),
            "copied": partial(_there_and_back, population, go_on=True),
            "train": partial(run.train, [0]),
        }
        found = in_turn(steps, 5 * effort.scale)
        step = 1e3 * found["train"] / STEPS
        for name, target, note in (
            ("back", Target("at most", 0.05), ""),
            ("copied", None, ", with the copy on which the run goes on unless its best was kept just before"),
        ):
            yield compared(
                "snapshot", Setup(shape).workload, 1e3 * found[name] / SNAPSHOTS, step, "ms", target,
                executor="single", note=f"Llama {shape}{note}",
            )  # fmt: skip


def _there_and_back(population: Population, go_on: bool = False) -> None:
    row = population.run_of(0).rows[0]
    for _ in range(SNAPSHOTS):
        population.restore(0, population.snapshot(0))
        if go_on:
            row.own_full(), row.own_average()
