"""Two processes of populations against one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np

from llmo.evaluation.processes import cores
from llmo.evaluation.throughput.problems import ENV, Setup
from llmo.evaluation.throughput.row import Row, Target, compared, missing
from llmo.evaluation.throughput.timing import Effort, in_turn
from llmo.evaluation.workers import Workers, population_env
from llmo.mdp.sb3_env import SlotVecEnv
from llmo.mdp.sizes import SHAPES

NAME = "two-processes"
EACH = 32
"""Slots of each of two processes."""
UNIT = "env steps/s"


def two_processes(effort: Effort) -> Iterator[Row]:
    """Environment steps of two processes with 32 slots each, against one process with 32 and with all 64."""
    setup, target = Setup(SHAPES["train"][1], 2 * EACH), Target("at least", 1.8)
    if cores() < 2:
        yield missing(NAME, setup.workload, UNIT, "this process may use one core only", target)
        return
    slots = {"two": 2 * EACH, "one": EACH, "all": 2 * EACH}
    with ExitStack() as stack:
        sides = {}
        for name, count in slots.items():
            env = population_env(ENV, count, Workers("processes", 2 if name == "two" else 1))
            sides[name] = Player(stack.enter_context(closing(env))).step
        found = in_turn(sides, 40 * effort.scale, time.perf_counter)
    two, one, together = (slots[name] / seconds for name, seconds in found.items())
    note = f"{EACH} slots each, against one process with {EACH}"
    yield compared(NAME, setup.workload, two, one, UNIT, target, note=note)
    note = f"{EACH} slots each, against one process with {2 * EACH}: the same episodes and actions"
    yield compared(NAME, setup.workload, two, together, UNIT, target, note=note)


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
