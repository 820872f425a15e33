"""One episode of an agent against the reference rule on the same instance: what it did, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmo.evaluation.plots import BLACK, BLUE, GREEN, ORANGE, PALE, SKY, VERMILLION, new_figure, write
from llmo.evaluation.result import EpisodeRecord
from llmo.mdp.render import log_rate_axis, mark_actions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCES = (SKY, ORANGE, GREEN)
ABOVE = 0.3
"""Nats per token above the start up to which a validation loss is shown; a run that diverges goes far beyond."""


def plot_timeline(record: EpisodeRecord, reference: EpisodeRecord, path: Path) -> None:
    """Losses, learning rates, source mixture and actions over the share of the budget.

    Args:
        record: The agent's episode.
        reference: The reference rule's, on the same instance.
        path: Where the PNG goes.
    """
    figure = new_figure(10.5, 9.0)
    losses, rates, mixture, names = figure.subplots(4, 1, sharex=True, height_ratios=(3.2, 1.8, 1.5, 1.7))
    agent, rival = record.result.job.agent, reference.result.job.agent
    _losses(losses, record, reference)
    for episode, colour, style in ((reference, BLUE, "--"), (record, VERMILLION, "-")):
        ends = [
            (decision.spent, decision.learning_rate) for decision in episode.decisions if decision.learning_rate > 0
        ]
        rates.plot(
            [0, *(e[0] for e in ends)], [math.nan, *(e[1] for e in ends)], style, color=colour, drawstyle="steps-pre"
        )
    log_rate_axis(rates)
    spent = [0.0, *(decision.spent for decision in record.decisions)]
    weights = [record.decisions[0].mixture, *(decision.mixture for decision in record.decisions)]
    labels = [f"source {number}" for number in range(1, 1 + len(weights[0]))]
    mixture.stackplot(spent, *zip(*weights, strict=True), step="pre", colors=SOURCES, labels=labels, alpha=0.85)
    mixture.set_ylim(0, 1)
    mixture.set_ylabel("sampling weight")
    mixture.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, title=f"{agent} uses", title_fontsize=9
    )
    names.set_xlim(0, 1)
    mark_actions(names, (losses, rates, mixture), spent, [_name(d.action, d.chosen) for d in record.decisions])
    names.set_xlabel("share of the budget spent (no action named: it kept on training; in brackets: it was masked)")
    saved = 100 * math.log(reference.result.test_loss / record.result.test_loss)
    result = record.result
    figure.suptitle(
        f"“{agent}” {'saves' if saved >= 0 else 'loses'} {abs(saved):.1f}% of test loss against “{rival}” "
        f"in this episode\n{result.job.split} instance {result.job.index}: {result.text_group}, {result.start}",
        fontsize=11,
    )
    write(figure, path)


def _name(action: str, chosen: str) -> str:
    return action if action == chosen else f"({chosen})"


def _losses(axes: Axes, record: EpisodeRecord, reference: EpisodeRecord) -> None:
    shown = [(d.spent, d.validation_loss) for d in record.decisions if math.isfinite(d.validation_loss)]
    agent, rival = record.result.job.agent, reference.result.job.agent
    axes.plot(*_columns(shown), ":", marker=".", color=VERMILLION, alpha=0.6, label=f"{agent}, each validation")
    axes.plot(*_columns(reference.curve()), "--", color=BLUE, linewidth=2, label=f"{rival}, best so far")
    axes.plot(*_columns(record.curve()), "-", color=VERMILLION, linewidth=2, label=f"{agent}, best so far")
    values = [loss for curve in (record.curve(), reference.curve()) for _, loss in curve]
    top = min(max(values) + ABOVE, max([*values, *(loss for _, loss in shown)]))
    margin = 0.06 * (top - min(values)) or 0.1
    axes.set_ylim(min(values) - margin, top + margin)
    axes.set_ylabel("validation loss, nats per token")
    axes.grid(color=PALE, linewidth=0.4)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9, labelcolor=BLACK)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
