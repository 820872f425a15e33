"""Pictures of what actions are worth, and of how well causes are named; each function writes one PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmo.diagnostics.causes import CAUSES
from llmo.evaluation.effects import PHASES
from llmo.evaluation.plots import BLACK, new_figure, write

LIMIT = 10.0
"""Percent at which colours end."""


def plot_effects(content: Mapping[str, Any], path: Path) -> None:
    """A heat map of gains at the end of the run: actions by rows, causes and phases by columns.

    It is empty where there were too few moments.

    Args:
        content: Of `effects.json`.
        path: Where the PNG goes.
    """
    groups = content["effects"]["all"]
    columns = [group for group in ("all", *PHASES, *CAUSES) if group in groups]
    overall = groups.get("all", {})
    rows = sorted((name for name in overall if name != "keep"), key=lambda name: -overall[name]["mean"])
    values = np.array([[groups[column].get(row, {}).get("mean", np.nan) for column in columns] for row in rows])
    figure = new_figure(5.0 + 0.75 * len(columns), 2.4 + 0.2 * len(rows))
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="PuOr_r", vmin=-LIMIT, vmax=LIMIT, aspect="auto")
    for place, (row, column) in enumerate((row, column) for row in rows for column in columns):
        cell = groups[column].get(row)
        if cell is None:
            continue
        sure = cell["low"] > 0 or cell["high"] < 0
        shade = "white" if abs(cell["mean"]) > 0.66 * LIMIT else BLACK
        weight = "bold" if sure else "normal"
        y, x = divmod(place, len(columns))
        axes.text(x, y, f"{cell['mean']:+.1f}", ha="center", va="center", fontsize=7, color=shade, fontweight=weight)
    counts = content["moments"]
    axes.set_xticks(range(len(columns)), [f"{name} ({counts[name]})" for name in columns], rotation=35, ha="left")
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_title(
        "What an action gains over keeping on, at the end of the run\n"
        "percent of the best validation loss at equal cost; bold: the 95% interval excludes 0",
        fontsize=10,
        loc="left",
        pad=14,
    )
    figure.colorbar(picture, ax=axes, shrink=0.5, label="percent", extend="both")
    write(figure, path)


def plot_confusion(content: Mapping[str, Any], path: Path) -> None:
    """A confusion matrix: what was planted by rows, what was named by columns.

    Args:
        content: Of `causes.json`.
        path: Where the PNG goes.
    """
    planted, named = [cause for cause in CAUSES if cause in content["matrix"]], list(CAUSES)
    counts = np.array([[content["matrix"][row].get(column, 0) for column in named] for row in planted])
    figure = new_figure(7.5, 5.6)
    axes = figure.subplots()
    axes.imshow(counts, cmap="Purples", vmin=0, vmax=counts.sum(1).max())
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            shade = "white" if counts[row, column] > 0.6 * counts[row].sum() else BLACK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=9, color=shade)
    axes.set_xticks(range(len(named)), named, rotation=35, ha="left")
    axes.set_yticks(range(len(planted)), planted)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_ylabel("planted")
    axes.set_xlabel("named")
    share = content["right"]
    axes.set_title(f"Causes named on {counts.sum()} planted runs ({share:.0%} right)", fontsize=11, loc="left", pad=14)
    write(figure, path)
