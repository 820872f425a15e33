"""Two processes of populations against one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from llmo.evaluation.processes import cores
from llmo.evaluation.throughput.problems import ENV, Setup
from llmo.evaluation.throughput.row import Row, Target, compared, missing
from llmo.evaluation.throughput.timing import Effort, in_turn
from llmo.evaluation.workers import Workers, population_env
from llmo.mdp.instances import SHAPES
from llmo.mdp.sb3_env import SlotVecEnv

NAME = "two-processes"
REPLICAS = 64
UNIT = "env steps/s"


def two_processes(effort: Effort) -> Iterator[Row]:
    """Environment steps of 64 slots that two processes share, against one process that has them all."""
    setup, target = Setup(SHAPES["train"][1], REPLICAS), Target("at least", 1.8)
    if cores() < 2:
        yield missing(NAME, setup.workload, UNIT, "this process may use one core only", target)
        return
    with (
        closing(population_env(ENV, REPLICAS, Workers("processes", 2))) as two,
        closing(population_env(ENV, REPLICAS, Workers("processes", 1))) as one,
    ):
        sides = {"two": Player(two).step, "one": Player(one).step}
        found = in_turn(sides, 50 * effort.scale, time.perf_counter)
    note = "the same episodes and actions, new episodes included"
    yield compared(NAME, setup.workload, REPLICAS / found["two"], REPLICAS / found["one"], UNIT, target, note=note)


class Player:
    """Random allowed actions; the same ones on the same episodes.

    Args:
        env: What is played.
    """

    def __init__(self, env: SlotVecEnv) -> None:
        self._env, self._random = env, np.random.default_rng(0)
        env.reset()

    def step(self) -> None:
        """One environment step of every slot."""
        masks = self._env.env_method("action_masks")
        self._env.step(np.array([self._random.choice(mask.nonzero()[0]) for mask in masks]))
