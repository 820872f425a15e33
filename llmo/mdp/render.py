"""What a run looks like so far: one line of text, or a plot as an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmo.diagnostics.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES, DOTS_PER_INCH = (9.6, 6.4), 100
# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
LEAST_GAP = 0.024
"""Least distance of two upright labels, as a share of the axes' width."""


def as_text(history: History) -> str:
    """The run's state in one line."""
    last = history.last
    parts = [
        f"step {last.step:>2}",
        f"budget {100 * last.spent:3.0f}%",
        f"validation {last.validation_loss:.3f} (best {last.best_validation_loss:.3f})",
        f"training {last.train_loss:.3f}" if math.isfinite(last.train_loss) else "training -",
        f"rate {last.learning_rate:.2g} ({last.learning_rate / history.default_rate:.2g}x default)",
        history.actions[-1] if history.actions else "not trained yet",
    ]
    if math.isfinite(last.epsilon):
        parts.append(f"epsilon {last.epsilon:.2f} at delta {last.delta:g}")
    return " | ".join(parts + ["diverged"] * last.diverged)


def as_image(history: History) -> NDArray[np.uint8]:
    """A plot of the losses and the learning rate so far with the actions marked, [640, 960, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    losses, rates, names = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 1.3))
    spent = [m.spent for m in history.measurements]
    validation = [m.validation_loss if m.finite else math.nan for m in history.measurements]
    losses.plot(spent, [m.train_loss for m in history.measurements], color=GREY, marker=".", label="training")
    losses.plot(spent, validation, color=BLUE, marker="o", markersize=4, label="validation")
    best = [m.best_validation_loss for m in history.measurements]
    losses.plot(spent, best, color=VERMILLION, drawstyle="steps-post", label="best validation")
    losses.set_ylabel("loss, nats per token")
    losses.legend(loc="best", frameon=False)
    losses.set_title(as_text(history), fontsize=9)
    lasting = [math.nan, *(m.learning_rate for m in history.measurements[1:])]
    rates.plot(spent, lasting, color=GREEN, marker=".", drawstyle="steps-pre")
    rates.axhline(history.default_rate, color=GREY, linestyle=":")
    rates.annotate("default", (0, history.default_rate), xytext=(2, 2), textcoords="offset points", fontsize=8)
    log_rate_axis(rates)
    names.set_xlabel("share of the budget spent")
    names.set_xlim(0, 1)
    mark_actions(names, (losses, rates), spent, history.actions)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_rate_axis(axes: Axes) -> None:
    """Make the y axis one of learning rates: logarithmic, with plain numbers that do not overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0,), numticks=8))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("learning rate")


def mark_actions(names: Axes, others: Sequence[Axes], places: Sequence[float], actions: Sequence[str]) -> None:
    """Write the actions but `keep` upright into `names` and draw a line at each, there and in `others`.

    Args:
        names: Axes that holds nothing else; its x limits are set.
        others: Axes above it that share its x axis.
        places: Where on the x axis each action was taken; ascending.
        actions: Their names.
    """
    marked = [(place, action) for place, action in zip(places, actions) if not action.startswith("keep")]
    low, high = names.get_xlim()
    labels = spread([place for place, _ in marked], LEAST_GAP * (high - low), low, high)
    for (place, action), label in zip(marked, labels):
        for axes in others:
            axes.axvline(place, color=GREY, linewidth=0.7, alpha=0.5)
        names.plot([place, place, label], [1, 0.93, 0.85], color=GREY, linewidth=0.7)
        names.text(label, 0.82, action, rotation=90, ha="center", va="top", fontsize=8)
    names.set_ylim(0, 1)
    names.set_yticks([])
    names.set_ylabel("action")


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places moved apart, to `gap` or as far as there is room in [low, high], and no further than needed."""
    if not places:
        return []
    gap = min(gap, (high - low) / len(places))
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low + gap / 2))
    limit = high - gap / 2
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved
