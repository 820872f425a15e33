"""Test losses of a comparison as arrays, complete and paired by instance, or an error that names what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmo.errors import LlmoError
from llmo.evaluation.members import best_of_members
from llmo.evaluation.result import Result
from llmo.evaluation.statistics import Array

Episodes = Mapping[tuple[int, int, float], Result]
"""Results of one agent by seed, instance index and budget."""


@dataclass(frozen=True)
class Instances:
    """What was played, in the order of every array here.

    Attributes:
        indices: Of the instances, ascending.
        groups: Text group of each.
        starts: ``scratch`` or ``pretrained``, for each.
        budgets: FLOPs of each.
    """

    indices: tuple[int, ...]
    groups: tuple[str, ...]
    starts: tuple[str, ...]
    budgets: tuple[float, ...]

    def where(self, keep: Sequence[bool]) -> Instances:
        """Those marked in `keep`, [I]."""
        kept = [place for place, wanted in enumerate(keep) if wanted]
        return Instances(*(tuple(values[place] for place in kept) for values in vars(self).values()))


def by_agent(results: Sequence[Result]) -> dict[str, Episodes]:
    """Results by agent, agents sorted by name; of an agent with several members on an instance, the best one's.

    Raises:
        LlmoError: There are none, they are of different environments or splits, one is there twice, or a test loss is
            no positive number.
    """
    if not results:
        raise LlmoError("records", "none", "at least one episode")
    results = best_of_members(results)
    first = results[0].job
    agents: dict[str, dict[tuple[int, int, float], Result]] = {}
    for result in results:
        job = result.job
        what = f"episode of {job.agent}, seed {job.seed}, instance {job.index}, budget {job.budget:g}"
        if (job.env, job.split) != (first.env, first.split):
            raise LlmoError(what, f"{job.env} {job.split}", f"one of {first.env} {first.split}, like the others")
        if not 0 < result.test_loss < math.inf:
            raise LlmoError(f"test loss of the {what}", result.test_loss, "a positive finite number")
        episodes = agents.setdefault(job.agent, {})
        if (job.seed, job.index, job.budget) in episodes:
            raise LlmoError(what, "given twice", "one of each")
        episodes[job.seed, job.index, job.budget] = result
    return dict(sorted(agents.items()))


def instances_of(results: Sequence[Result]) -> Instances:
    """The instances of results.

    Raises:
        LlmoError: There are none, or two agents played different problems under one index.
    """
    facts: dict[int, tuple[str, str]] = {}
    budgets: dict[int, float] = {}
    for result in results:
        fact = result.text_group, result.start
        budgets[result.job.index] = result.budget_flops
        if facts.setdefault(result.job.index, fact) != fact:
            what = f"instance {result.job.index} of {result.job.agent}"
            raise LlmoError(what, fact, f"the one that the others played, {facts[result.job.index]}")
    if not facts:
        raise LlmoError("records", "none of them at budget 1", "each agent's episodes at its instances' own budget")
    indices = tuple(sorted(facts))
    groups, starts = zip(*(facts[index] for index in indices), strict=True)
    return Instances(indices, groups, starts, tuple(budgets[index] for index in indices))


def log_losses(episodes: Episodes, indices: Sequence[int], budget: float) -> Array:
    """Log test losses, [seeds, I].

    Raises:
        LlmoError: An episode is missing.
    """
    agent = next(iter(episodes.values())).job.agent
    rows = []
    for seed in sorted({seed for seed, _, _ in episodes}):
        missing = [index for index in indices if (seed, index, budget) not in episodes]
        if missing:
            what = f"record of {agent}, seed {seed}, budget {budget:g}"
            raise LlmoError(
                what, f"no instance {missing[0]}", f"every instance that others have ({len(missing)} missing)"
            )
        rows.append([math.log(episodes[seed, index, budget].test_loss) for index in indices])
    return np.array(rows)
