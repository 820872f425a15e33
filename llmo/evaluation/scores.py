"""Where episodes become numbers: the content of `scores.json`, from records, and from nothing else.

The score of an episode is 100 log(reference's test loss / agent's test loss) on the same instance: percent of test
loss, positive is better. Everything is paired by instance; an agent's seeds are averaged within each instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmo import catalog
from llmo.agent import LearningAgent
from llmo.catalog.tuned import tuned_parameters
from llmo.errors import LlmoError
from llmo.evaluation.losses import Episodes, Instances, by_agent, instances_of, log_losses
from llmo.evaluation.paired import by_horizon, compare, gain_of_tail, share_of_headroom
from llmo.evaluation.provenance import provenance
from llmo.evaluation.result import EpisodeRecord, Result
from llmo.evaluation.statistics import Array, Bootstrap, iqm, worst_decile

SEARCH = "search_full"
"""What gains over the best rule is the headroom: rollout search to the end."""
CONSTANT = "constant"
"""The rule whose final loss is the second mark for speed-ups."""
ROUNDING = 1e-12
"""Difference of log losses that is none: seeds that agree have a mean that may differ from each in the last bit."""


def score(records: Sequence[EpisodeRecord], reference: str, best_rule: str) -> dict[str, Any]:
    """Score every agent that was played.

    Args:
        records: Episodes of one environment and split. Each agent has every instance with each of its seeds. Budgets
            other than 1, where there are any, are for the speed-up and may be played on fewer instances.
        reference: Name of the agent that scores are relative to.
        best_rule: Name of the best tuned rule, as named on train instances.

    Returns:
        The content of `scores.json`.

    Raises:
        LlmoError: The records are of different environments or splits, lack the reference or an episode, hold one
            twice, or have a test loss that is no positive number.
    """
    agents = by_agent([record.result for record in records])
    if reference not in agents:
        raise LlmoError("reference", reference, sorted(agents))
    results = [result for episodes in agents.values() for result in episodes.values()]
    instances = instances_of([result for result in results if result.job.budget == 1])
    losses = {name: log_losses(episodes, instances.indices, 1.0) for name, episodes in agents.items()}
    bootstrap = Bootstrap(instances.groups)
    pairs = {name: _against_others(name, losses, bootstrap) for name in losses}
    subsets = {
        start: instances.where([start == other for other in instances.starts])
        for start in ("scratch", "pretrained")
        if start in instances.starts
    }
    rows = {}
    for name, episodes in agents.items():
        parts = {start: _part(name, reference, losses, instances, subset) for start, subset in subsets.items()}
        rows[name] = _agent(name, reference, losses, pairs) | _costs(name, episodes) | parts
    return {
        "env": results[0].job.env,
        "split": results[0].job.split,
        "instances": len(instances.indices),
        "text_groups": len(set(instances.groups)),
        "indices": list(instances.indices),
        "reference": reference,
        "best_rule": best_rule,
        "budget_flops": float(np.mean([r.budget_flops for r in results if r.job.budget == 1])),
        **provenance(),
        "corpus_sha256": results[0].corpus_sha256,
        "agents": rows,
        "pairs": pairs,
        "horizons": by_horizon(losses, instances, best_rule if best_rule in losses else reference),
        "tails": _tails(losses, reference, best_rule, bootstrap),
        "headroom": _headroom(losses, best_rule, bootstrap),
        "speedup": _speedups(agents, instances, losses[reference].mean(axis=0)),
        "speedup_over_constant": _speedups(agents, instances, losses[CONSTANT].mean(axis=0))
        if CONSTANT in losses
        else {},
    }


def _tails(losses: Mapping[str, Array], reference: str, rule: str, bootstrap: Bootstrap) -> dict[str, dict[str, float]]:
    """How much better each agent's worst tenth is than the best rule's; empty where that was not played."""
    if rule not in losses:
        return {}
    best = rule, losses[rule]
    return {
        name: gain_of_tail((name, ours), best, losses[reference], bootstrap)
        for name, ours in losses.items()
        if name != rule
    }


def _headroom(losses: Mapping[str, Array], rule: str, bootstrap: Bootstrap) -> dict[str, dict[str, float] | None]:
    """Each agent's share of what rollout search gains over the best rule; empty where one of them was not played."""
    if rule not in losses or SEARCH not in losses:
        return {}
    others = {name: ours for name, ours in losses.items() if name not in (rule, SEARCH)}
    return {
        name: share_of_headroom((name, ours), losses[rule], losses[SEARCH], bootstrap) for name, ours in others.items()
    }


def _against_others(name: str, losses: Mapping[str, Array], bootstrap: Bootstrap) -> dict[str, dict[str, float]]:
    return {
        other: compare((name, losses[name]), (other, theirs), bootstrap)
        for other, theirs in losses.items()
        if other != name
    }


def _agent(
    name: str, reference: str, losses: Mapping[str, Array], pairs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    scores = 100 * (losses[reference].mean(axis=0) - losses[name].mean(axis=0))
    shown = ("iqm", "low", "high", "probability_of_improvement")
    same = dict(zip(shown, (0.0, 0.0, 0.0, 0.5), strict=True))
    return {
        **({key: pairs[name][reference][key] for key in shown} if name != reference else same),
        "mean": float(scores.mean()),
        "worst_decile": worst_decile(scores),
        "scores": scores.tolist(),
    }


def _part(
    name: str, reference: str, losses: Mapping[str, Array], instances: Instances, subset: Instances
) -> dict[str, Any]:
    """The score over the instances with one kind of start."""
    columns = [instances.indices.index(index) for index in subset.indices]
    ours, theirs = ((agent, losses[agent][:, columns]) for agent in (name, reference))
    return {**compare(ours, theirs, Bootstrap(subset.groups)), "instances": len(columns)}


def _costs(name: str, episodes: Episodes) -> dict[str, Any]:
    """What the agent cost and how it behaved, per episode at budget 1."""
    played = [result for (_, _, budget), result in episodes.items() if budget == 1]

    def mean(field: str) -> float:
        return float(np.mean([getattr(result, field) for result in played]))

    kind = _kind(name, played)
    return {
        "kind": kind,
        "search": kind == "search",
        "seeds": len({result.job.seed for result in played}),
        "flops": mean("spent_flops"),
        "search_flops": mean("search_flops"),
        "wall_s": mean("wall_s"),
        "diverged": mean("diverged"),
        "masked": mean("masked"),
        "tuned": {**tuned_parameters(name, played[0].job.env), **dict(played[0].job.parameters)},
    }


def _kind(name: str, played: Sequence[Result]) -> str:
    """``search`` for what spends more than the budget, ``learned`` or ``rule``.

    An agent whose plug-in is not loaded counts as a rule unless it looked ahead.
    """
    if any(result.search_flops > 0 for result in played):
        return "search"
    try:
        kind = catalog.get("agents", name)
    except LlmoError:
        return "rule"
    if kind.members * kind.share > 1:
        return "search"
    return "learned" if issubclass(kind, LearningAgent) else "rule"


def _speedups(agents: Mapping[str, Episodes], instances: Instances, goal: Array) -> dict[str, dict[str, float]]:
    """How many times less budget each agent needs to match a rule; empty if only budget 1 was played.

    For each instance and seed it is 1 / the smallest budget whose test loss is at most the rule's at budget 1, and 0
    where no budget was enough; `not_reached` is the share of these.
    """
    others = {key[1:] for episodes in agents.values() for key in episodes if key[2] != 1}
    if not others:
        return {}
    played = {index for index, _ in others}
    keep = [index in played for index in instances.indices]
    subset, bar = instances.where(keep), goal[keep]
    budgets = sorted({1.0, *(budget for _, budget in others)}, reverse=True)
    bootstrap = Bootstrap(subset.groups)
    rows = {}
    for name, episodes in agents.items():
        if all(budget == 1 for _, _, budget in episodes):
            continue
        factor = np.zeros_like(log_losses(episodes, subset.indices, 1.0))
        for budget in budgets:
            reached = log_losses(episodes, subset.indices, budget) <= bar + ROUNDING
            factor[reached] = 1 / budget
        low, high = bootstrap.interval(bootstrap.seeds(name, len(factor)) @ factor)
        rows[name] = {
            "iqm": iqm(factor.mean(axis=0)),
            "low": low,
            "high": high,
            "not_reached": float((factor == 0).mean()),
        }
    return rows
