"""Pictures of a comparison and of a training, each a function that writes one PNG.

Interquartile means, probabilities of improvement and performance profiles are the views of Agarwal et al. 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmo.evaluation.statistics import Array, performance_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130
# Okabe and Ito's palette, which colour-blind readers can tell apart; markers tell the kinds apart without colour too.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
BLACK, GREY, PALE = "#222222", "#8A8A8A", "#C9C9C9"
KINDS = {"learned": (VERMILLION, "o"), "rule": (BLUE, "s"), "search": (PURPLE, "D")}
"""Colour and marker of each kind of agent."""
WIDE = 20.0
"""Percent beyond which scores are drawn on a logarithmic axis, so that a failing agent does not flatten the others."""
LINEAR = 5.0
"""Percent up to which such an axis stays linear."""
HIGHLIGHTED = 6
"""Agents that the performance profile names; more lines than that cannot be followed."""
LINES = ((VERMILLION, "-"), (BLUE, "-"), (GREEN, "--"), (PURPLE, "-."), (ORANGE, "--"), (SKY, "-"))


def by_iqm(scores: Mapping[str, Any]) -> list[str]:
    """Names of the agents, the best first."""
    agents = scores["agents"]
    return sorted(agents, key=lambda name: (-agents[name]["iqm"], name))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def plot_iqm(scores: Mapping[str, Any], path: Path) -> None:
    """Every agent's interquartile mean with its interval, the best on top; zero is the reference.

    Args:
        scores: The content of `scores.json`.
        path: Where the PNG goes.
    """
    from matplotlib.lines import Line2D

    names = by_iqm(scores)
    figure = new_figure(9.5, 1.9 + 0.36 * len(names))
    axes = figure.subplots()
    for row, name in enumerate(names):
        agent = scores["agents"][name]
        colour, marker = KINDS[agent["kind"]]
        face = "white" if agent["search"] else colour
        axes.plot([agent["low"], agent["high"]], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(agent["iqm"], row, marker=marker, color=colour, markerfacecolor=face, markersize=7)
        text = "reference" if name == scores["reference"] else _with_interval(agent)
        axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=BLACK)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_yticks(range(len(names)), [_marked(scores, name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=PALE, linewidth=0.5)
    _score_axis(axes, [scores["agents"][name][end] for name in names for end in ("low", "high")])
    axes.set_title(
        f"How much test loss each agent saves against “{scores['reference']}”\n{_what(scores)}", fontsize=11, loc="left"
    )
    kinds = [kind for kind in KINDS if any(scores["agents"][name]["kind"] == kind for name in names)]
    looks = [(*KINDS[kind], "white" if kind == "search" else KINDS[kind][0]) for kind in kinds]
    handles = [Line2D([], [], color=colour, marker=marker, markerfacecolor=face) for colour, marker, face in looks]
    labels = {"learned": "learned", "rule": "rule", "search": "search (extra compute outside the budget)"}
    figure.legend(
        handles, [labels[kind] for kind in kinds], loc="outside lower left", ncols=3, frameon=False, fontsize=9
    )
    write(figure, path)


def plot_win_matrix(scores: Mapping[str, Any], path: Path) -> None:
    """How probably the agent of a row beats that of a column on one instance; agents are ordered by their IQM.

    Args:
        scores: The content of `scores.json`.
        path: Where the PNG goes.
    """
    names = by_iqm(scores)
    chances = np.full((len(names), len(names)), np.nan)
    for row, name in enumerate(names):
        for column, other in enumerate(names):
            if name != other:
                chances[row, column] = scores["pairs"][name][other]["probability_of_improvement"]
    side = max(5.0, 2.6 + 0.48 * len(names))
    figure = new_figure(side + 1.0, side)
    axes = figure.subplots()
    picture = axes.imshow(chances, cmap="PuOr_r", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(np.isfinite(chances)), strict=True):
        value = chances[row, column]
        shade = "white" if abs(value - 0.5) > 0.33 else BLACK
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=shade)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [_marked(scores, name) for name in names])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_title("How often the row's agent beats the column's agent", fontsize=11, loc="left", pad=10)
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of instances won, ties half")
    write(figure, path)


def plot_profile(scores: Mapping[str, Any], path: Path) -> None:
    """Which share of the instances each agent scores at least so much on.

    Args:
        scores: The content of `scores.json`.
        path: Where the PNG goes.
    """
    names = _highlighted(scores)
    shown = np.concatenate([scores["agents"][name]["scores"] for name in names])
    low, high = np.clip(np.quantile(shown, [0.03, 0.97]), (-WIDE / 2, 1.0), (-1.0, WIDE))
    thresholds = np.linspace(low, high, 400)
    figure = new_figure(9.5, 4.8)
    axes = figure.subplots()
    for name, (colour, style) in zip(names, LINES):
        shares = 100 * _profile(scores, name, thresholds)
        axes.plot(thresholds, shares, color=colour, linestyle=style, linewidth=2, label=_marked(scores, name))
    others = [name for name in scores["agents"] if name not in names and name != scores["reference"]]
    for place, name in enumerate(others):
        label = "other agents" if place == 0 else None
        axes.plot(thresholds, 100 * _profile(scores, name, thresholds), color=PALE, linewidth=1, zorder=1, label=label)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.axhline(50, color=GREY, linewidth=0.7, linestyle=":")
    axes.set_xlim(low, high)
    axes.set_ylim(0, 101)
    axes.grid(color=PALE, linewidth=0.4)
    axes.set_xlabel(f"score τ: test loss saved against “{scores['reference']}” (the line at zero), %")
    axes.set_ylabel("instances with a score of at least τ, %")
    axes.set_title(f"On how many instances an agent saves at least so much\n{_what(scores)}", fontsize=11, loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    write(figure, path)


def plot_learning_curve(progress: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The return of the policy's episodes over its training.

    Args:
        progress: One object for each update, with `env_steps`, `return` (None where no episode ended) and, where it is
            known, `reference_return`.
        path: Where the PNG goes.
    """
    figure = new_figure(9.5, 4.2)
    axes = figure.subplots()
    names = (("return", VERMILLION, "policy"), ("reference_return", BLUE, "teacher, on train instances"))
    for name, colour, label in names:
        rows = [row for row in progress if row.get(name) is not None]
        if rows:
            steps, values = (np.array([row[key] for row in rows], float) for key in ("env_steps", name))
            axes.plot(steps, values, ".", color=colour, alpha=0.35, markersize=5)
            axes.plot(steps, smoothed(values), color=colour, linewidth=2, label=label)
    axes.grid(color=PALE, linewidth=0.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("mean return of an episode\n(10 × log-ratio of losses)")
    axes.set_title(
        "Return of the exploring policy while it learns (dots: updates, line: smoothed)", fontsize=11, loc="left"
    )
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    write(figure, path)


def smoothed(values: Array) -> Array:
    """Mean over a centred window of a fifth of the values, [T]; towards both ends it shrinks, which invents none."""
    half = len(values) // 10
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(half, np.minimum(places, len(values) - 1 - places))
    means: Array = (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)
    return means


def _score_axis(axes: Axes, ends: Sequence[float]) -> None:
    note = ""
    if min(ends) < -WIDE or max(ends) > WIDE:
        axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.5)
        ticks = [sign * tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) for sign in (-1, 1)]
        kept = [tick for tick in ticks if 1.2 * min(*ends, -LINEAR) <= tick <= 1.2 * max(*ends, LINEAR)]
        axes.set_xticks([0, *kept], ["0", *(f"{tick:+g}" for tick in kept)])
        axes.set_xticks([], minor=True)
        axes.set_xlim(1.3 * min(*ends, -LINEAR), 1.3 * max(*ends, LINEAR))
        note = f"; logarithmic beyond ±{LINEAR:g}"
    axes.set_xlabel(f"interquartile mean with 95% interval, % of test loss, right is better{note}")


def _with_interval(agent: Mapping[str, Any]) -> str:
    return f"{agent['iqm']:+.1f}  [{agent['low']:+.1f}, {agent['high']:+.1f}]"


def _marked(scores: Mapping[str, Any], name: str) -> str:
    return f"{name} (search)" if scores["agents"][name]["search"] else name


def _what(scores: Mapping[str, Any]) -> str:
    return f"{scores['instances']} {scores['split']} instances of {scores['env']}"


def _highlighted(scores: Mapping[str, Any]) -> list[str]:
    """Learned agents, then the best rule as named in advance, then whoever else is best; never the reference."""
    order = [name for name in by_iqm(scores) if name != scores["reference"]]
    learned = [name for name in order if scores["agents"][name]["kind"] == "learned"]
    named = [name for name in order if name == scores["best_rule"]]
    return list(dict.fromkeys([*learned, *named, *order]))[:HIGHLIGHTED] or [scores["reference"]]


def _profile(scores: Mapping[str, Any], name: str, thresholds: Array) -> Array:
    return performance_profile(np.array(scores["agents"][name]["scores"]), thresholds)
