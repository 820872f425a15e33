"""The table of scores as plain text: what `llmo benchmark` prints and the README shows."""

from __future__ import annotations

from collections.abc import Mapping
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


def score_table(scores: Mapping[str, Any]) -> str:
    """A Markdown table of scores, the best agent first, with a sentence on how to read it.

    Args:
        scores: As in `scores.json`.
    """
    agents = sorted(scores["agents"].items(), key=lambda item: -item[1]["iqm"])
    rows = [HEAD, *(_row(name, agent, scores["reference"]) for name, agent in agents)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    said = (
        f"{scores['instances']} {scores['split']} instances of {scores['env']}; percent better test loss than the "
        f"reference rule ({scores['reference']}, tuned) at equal FLOPs; positive is better."
    )
    return "\n".join([said, "", *lines])


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
