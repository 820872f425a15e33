"""The report of an improvement: what was done when and why, what came of it, in one page that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmo.atomic import write_text_atomic
from llmo.evaluation.html import Column, facts, heading, page, paragraph, picture, table
from llmo.evaluation.own.improve import Improvement
from llmo.evaluation.plots import BLACK, BLUE, GREY, PALE, VERMILLION, new_figure, write
from llmo.evaluation.result import Decision
from llmo.mdp.render import log_rate_axis, mark_actions
from llmo.tasks.metrics import LOWER_IS_BETTER

CURVES = "curves.png"


def write_report(result: Improvement, folder: Path, title: str, origin: Mapping[str, str]) -> Path:
    """Write `report.html` and the picture in it.

    Args:
        result: What came of it.
        folder: Where to.
        title: Of the page.
        origin: Facts about where it comes from, by name.
    """
    plot_decisions(result.decisions, folder / CURVES)
    first, last = result.decisions[0], result.decisions[-1]
    turned = [decision for decision in result.decisions if decision.action != "keep"]
    parts = [
        paragraph(
            f"In {len(result.decisions)} steps the policy took {len(turned)} actions. The validation loss fell from "
            f"{first.validation_loss:.3f} after the first step to {last.best_validation_loss:.3f} at the best, whose "
            f"weights are in model/. {result.flops[0]:.3g} of {result.flops[1]:.3g} FLOPs were spent."
        ),
        facts(origin),
        heading("On the test examples"),
        _scores(result),
        heading("What was done"),
        picture(folder / CURVES, "losses and learning rate over the budget, with the actions marked"),
        heading("Step by step"),
        paragraph("Cause and evidence are what the measurements say before the step; why is what the policy says."),
        _steps(result.decisions),
    ]
    file = folder / "report.html"
    write_text_atomic(file, page(title, parts))
    return file


def _scores(result: Improvement) -> str:
    rows = {"as it was given": result.before, "improved": result.after, **result.rivals}
    names = [name for name in result.after.metrics if name.count("_") == 0 or name in ("macro_f1", "exact_match")]
    columns = [
        Column("model"),
        *(Column(_metric(name), True) for name in names),
        Column("improved one's loss is lower by", True),
    ]
    cells = [
        [name, *(f"{score.metrics[metric]:.4g}" for metric in names), str(result.against.get(name, ""))]
        for name, score in rows.items()
    ]
    text = f"{len(result.after.losses)} examples that no decision has seen; intervals are bootstraps over them."
    return paragraph(text) + table(columns, cells, strong=[1])


def _metric(name: str) -> str:
    return f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}"


def _steps(decisions: Sequence[Decision]) -> str:
    columns = [
        Column("step", True), Column("budget", True), Column("cause"), Column("evidence"), Column("action"),
        Column("why"), Column("rate", True), Column("training", True), Column("validation", True),
    ]  # fmt: skip
    rows = [
        [
            str(one.step), f"{one.spent:.0%}", one.cause, one.evidence, one.action, one.why,
            f"{one.learning_rate:.2g}", _number(one.train_loss), _number(one.validation_loss),
        ]
        for one in decisions
    ]  # fmt: skip
    return table(columns, rows, strong=[place for place, one in enumerate(decisions) if one.action != "keep"])


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def plot_decisions(decisions: Sequence[Decision], path: Path) -> None:
    """Losses, rate and actions over the share of the budget."""
    figure = new_figure(10.5, 7.0)
    losses, rates, names = figure.subplots(3, 1, sharex=True, height_ratios=(3.0, 1.6, 1.6))
    spent = [one.spent for one in decisions]
    losses.plot(spent, [one.train_loss for one in decisions], color=GREY, marker=".", label="training")
    losses.plot(
        spent, [one.validation_loss for one in decisions], color=BLUE, marker="o", markersize=4, label="validation"
    )
    best = [one.best_validation_loss for one in decisions]
    losses.plot(spent, best, color=VERMILLION, drawstyle="steps-post", label="best validation")
    losses.set_ylabel("loss")
    losses.grid(color=PALE, linewidth=0.4)
    losses.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=BLACK)
    trained = [0.0, *spent]
    rates.plot(
        trained,
        [math.nan, *(one.learning_rate or math.nan for one in decisions)],
        color=VERMILLION,
        drawstyle="steps-pre",
    )
    log_rate_axis(rates)
    names.set_xlim(0, 1)
    mark_actions(names, (losses, rates), trained, [one.action for one in decisions])
    names.set_xlabel("share of the budget spent (no action named: it kept on training)")
    write(figure, path)
