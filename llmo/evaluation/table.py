"""The table of scores as plain text: what `llmo benchmark` prints and the README shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = (
    "agent",
    "kind",
    "IQM, % [95% interval]",
    "mean",
    "worst tenth",
    "better than reference",
    "scratch",
    "pre-trained",
)


RULE_HEAD = ("agent", "budget", "instances", "IQM, %", "mean", "worst tenth", "better than the rule", "worst seed")


def score_table(scores: Mapping[str, Any]) -> str:
    """A Markdown table of scores, the best agent first, with a sentence on how to read it.

    Args:
        scores: As in `scores.json`.
    """
    agents = sorted(scores["agents"].items(), key=lambda item: -item[1]["iqm"])
    lines = _markdown([HEAD, *(_row(name, agent, scores["reference"]) for name, agent in agents)])
    said = (
        f"{scores['instances']} {scores['split']} instances of {scores['env']}; percent better test loss than the "
        f"reference rule ({scores['reference']}, tuned) at equal FLOPs; positive is better."
    )
    return "\n".join([said, "", *lines])


def rule_table(scores: Mapping[str, Any]) -> str:
    """A Markdown table of the learned agents against the best tuned rule, over all budgets and apart for each.

    Args:
        scores: As in `scores.json`.

    Returns:
        The table, or nothing where no learned agent was played, or not the best rule.
    """
    rule = scores["best_rule"]
    learned = [name for name, agent in scores["agents"].items() if agent["kind"] == "learned"]
    if rule not in scores["agents"] or not learned:
        return ""
    rows: list[tuple[str, ...]] = [RULE_HEAD]
    for name in learned:
        rows.append(_rule_row(name, "all", scores["instances"], scores["pairs"][name][rule]))
        for horizon in scores["horizons"]:
            rows.append(_rule_row(name, f"{horizon['budget']:g}x", horizon["instances"], horizon["agents"][name]))
    said = f"Against the best tuned rule ({rule}); a budget of 1x is the middle one."
    shares = {name: share for name in learned if (share := scores["headroom"].get(name))}
    more = [f"{name}'s worst tenth is {_percent(scores['tails'][name])} better than the rule's." for name in learned]
    more += [f"{name} gains {_share(share)} of what search to the end gains over it." for name, share in shares.items()]
    return "\n".join([said, "", *_markdown(rows), "", *more])


def _percent(tail: Mapping[str, float]) -> str:
    return f"{tail['gain']:+.2f}% [{tail['low']:+.2f}, {tail['high']:+.2f}]"


def _share(share: Mapping[str, float]) -> str:
    return f"{share['share']:.2f} [{share['low']:.2f}, {share['high']:.2f}]"


def _rule_row(name: str, budget: str, instances: int, pair: Mapping[str, float]) -> tuple[str, ...]:
    values = [
        f"{pair[key]:+.2f} [{pair[f'{prefix}low']:+.2f}, {pair[f'{prefix}high']:+.2f}]"
        for key, prefix in (("iqm", ""), ("mean", "mean_"), ("worst_decile", "worst_decile_"))
    ]
    better = f"{pair['probability_of_improvement']:.2f}"
    return name, budget, str(instances), *values, better, f"{pair['worst_seed']:+.2f}"


def _markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]


def _row(name: str, agent: Mapping[str, Any], reference: str) -> tuple[str, ...]:
    kind = "reference" if name == reference else agent["kind"]
    parts = [f"{agent[start]['iqm']:+.2f}" if agent.get(start) else "" for start in ("scratch", "pretrained")]
    return (
        name,
        kind,
        f"{agent['iqm']:+.2f} [{agent['low']:+.2f}, {agent['high']:+.2f}]",
        f"{agent['mean']:+.2f}",
        f"{agent['worst_decile']:+.2f}",
        f"{agent['probability_of_improvement']:.2f}",
        *parts,
    )
