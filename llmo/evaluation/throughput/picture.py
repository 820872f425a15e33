"""The picture of the sweep: replica-steps per second over the number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmo.evaluation.plots import BLACK, BLUE, GREEN, ORANGE, PALE, VERMILLION, new_figure, write
from llmo.evaluation.throughput.row import Row
from llmo.evaluation.throughput.sweep import BATCHES, NAME, REPLICAS

COLOURS = (BLUE, GREEN, ORANGE, VERMILLION)
"""Of the model sizes, from the smallest."""
LOOKS: dict[str, dict[str, Any]] = {
    "single": {"linestyle": "--"},
    "batched": {"linestyle": "-", "marker": "o"},
    "compiled": {"linestyle": ":", "marker": "s"},
}
"""Of the executors."""
NAMES = {"single": "one after another", "batched": "batched", "compiled": "compiled"}


def plot_sweep(rows: Sequence[Row], path: Path) -> None:
    """One panel for each number of tokens, a colour for each model size, a line for each executor.

    Args:
        rows: Of a measuring; those of other measures are passed over.
        path: Where the PNG goes.
    """
    from matplotlib.lines import Line2D

    points = [row for row in rows if row.name == NAME and row.value is not None]
    sizes = sorted({row.parameters for row in points})
    figure = new_figure(10.5, 5.2)
    panels = figure.subplots(1, len(BATCHES), sharey=True)
    for axes, (sequences, tokens) in zip(panels, BATCHES, strict=True):
        here = [row for row in points if row.tokens == sequences * tokens]
        for size, colour in zip(sizes, COLOURS):
            for executor, look in LOOKS.items():
                rates = {row.replicas: row.value for row in here if (row.parameters, row.executor) == (size, executor)}
                if executor == "single":
                    rates = {n: rate for rate in rates.values() for n in (REPLICAS[0], REPLICAS[-1])}
                axes.plot(list(rates), list(rates.values()), color=colour, markersize=4.5, linewidth=1.6, **look)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(REPLICAS, [str(n) for n in REPLICAS])
        axes.grid(color=PALE, linewidth=0.5, which="both")
        axes.set_xlabel("N, replicas in one program")
        axes.set_title(f"{sequences} x {tokens} tokens in an optimizer step of each", fontsize=11, loc="left")
    panels[0].set_ylabel("optimizer steps of all replicas together, per second")
    handles = [Line2D([], [], color=colour, linewidth=3) for _, colour in zip(sizes, COLOURS)]
    handles += [Line2D([], [], color=BLACK, markersize=4.5, **look) for look in LOOKS.values()]
    names = [*map(_spoken, sizes), *NAMES.values()]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    figure.suptitle("How fast one core trains populations of small language models", fontsize=12, x=0.01, ha="left")
    write(figure, path)


def _spoken(parameters: int) -> str:
    """A number of parameters in words."""
    return f"{parameters / 1e6:.1f}M parameters" if parameters >= 95_000 else f"{parameters / 1e3:.0f}k parameters"
