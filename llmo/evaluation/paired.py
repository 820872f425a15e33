"""How much better one agent is than another on the same instances, in percent of test loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmo.evaluation.losses import Instances
from llmo.evaluation.statistics import (
    Array,
    Bootstrap,
    iqm,
    percentiles,
    probability_of_improvement,
    resampled_iqm,
    resampled_mean,
    resampled_worst_decile,
    worst_decile,
)

HORIZONS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the middle budget, the geometric mean of the least and the greatest."""


def compare(ours: tuple[str, Array], theirs: tuple[str, Array], bootstrap: Bootstrap) -> dict[str, float]:
    """How much lower our losses are.

    Args:
        ours: An agent's name and its log losses, [seeds, I].
        theirs: Another's, [their seeds, I].
        bootstrap: Of the instances.

    Returns:
        Interquartile mean (`iqm`), mean and mean of the worst tenth, in percent, each with an interval; the
        interquartile mean of our worst seed; and the probability of improvement.
    """
    (name, a), (other, b) = ours, theirs
    each = 100 * (b.mean(axis=0) - a)
    resampled = 100 * (bootstrap.seeds(other, len(b)) @ b - bootstrap.seeds(name, len(a)) @ a)
    row: dict[str, float] = {}
    for prefix, value, statistic in (
        ("", iqm(each.mean(axis=0)), resampled_iqm),
        ("mean_", float(each.mean()), resampled_mean),
        ("worst_decile_", worst_decile(each.mean(axis=0)), resampled_worst_decile),
    ):
        low, high = bootstrap.interval(resampled, statistic)
        row |= {prefix.rstrip("_") or "iqm": value, f"{prefix}low": low, f"{prefix}high": high}
    return row | {
        "worst_seed": min(iqm(seed) for seed in each),
        "probability_of_improvement": probability_of_improvement(a, b),
    }


def gain_of_tail(
    ours: tuple[str, Array], theirs: tuple[str, Array], reference: Array, bootstrap: Bootstrap
) -> dict[str, float]:
    """How much better our worst tenth is than theirs, each of its own instances, in percent against the reference.

    The worst tenth of paired differences is negative for any two agents that differ by luck; this is not.

    Args:
        ours: An agent's name and its log losses, [seeds, I].
        theirs: Another's, [their seeds, I].
        reference: The reference's, [1, I].
        bootstrap: Of the instances.
    """
    means, resampled = [], []
    for name, losses in (ours, theirs):
        means.append(worst_decile(100 * (reference.mean(axis=0) - losses.mean(axis=0))))
        scores = 100 * (reference.mean(axis=0) - bootstrap.seeds(name, len(losses)) @ losses)
        resampled.append(bootstrap.resampled(scores, resampled_worst_decile))
    low, high = percentiles(resampled[0] - resampled[1])
    return {"gain": means[0] - means[1], "low": low, "high": high}


def share_of_headroom(
    ours: tuple[str, Array], rule: Array, search: Array, bootstrap: Bootstrap
) -> dict[str, float] | None:
    """How much of what a search gains over a rule an agent gains, by interquartile means.

    Args:
        ours: An agent's name and its log losses, [seeds, I].
        rule: The rule's, [1, I].
        search: The search's, [1, I].
        bootstrap: Of the instances.

    Returns:
        The share with its interval; None where it is not certain that the search gains anything.
    """
    name, losses = ours
    room = rule.mean(axis=0) - search.mean(axis=0)
    rooms = bootstrap.resampled(room[None])
    if percentiles(rooms)[0] <= 0:
        return None
    gained = bootstrap.resampled(rule.mean(axis=0) - bootstrap.seeds(name, len(losses)) @ losses)
    low, high = percentiles((gained / rooms)[rooms > 0])
    return {"share": iqm(rule.mean(axis=0) - losses.mean(axis=0)) / iqm(room), "low": low, "high": high}


def by_horizon(losses: Mapping[str, Array], instances: Instances, rule: str) -> list[dict[str, Any]]:
    """How much better every agent is than a rule, apart for small and large budgets.

    Args:
        losses: Log losses by agent, [seeds, I].
        instances: What was played.
        rule: Name of the agent that all others are compared with.

    Returns:
        For each of `HORIZONS` that has instances whose budgets are nearest to it: the multiple, how many instances, and
        by agent what `compare` gives.
    """
    budgets = np.log2(instances.budgets)
    middle = (budgets.min() + budgets.max()) / 2
    nearest = np.abs((budgets - middle)[:, None] - np.log2(HORIZONS)).argmin(axis=1)
    rows = []
    for place in sorted(set(nearest.tolist())):
        here = nearest == place
        bootstrap = Bootstrap(instances.where(here.tolist()).groups)
        agents = {
            name: compare((name, ours[:, here]), (rule, losses[rule][:, here]), bootstrap)
            for name, ours in losses.items()
            if name != rule
        }
        rows.append({"budget": HORIZONS[place], "instances": int(here.sum()), "rule": rule, "agents": agents})
    return rows
