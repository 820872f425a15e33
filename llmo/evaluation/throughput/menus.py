"""A population under a mixed menu: what the variety of actions costs, against the same replicas that only keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from llmo import catalog
from llmo.engine.models import ModelShape
from llmo.engine.run import Run
from llmo.evaluation.throughput.populations import UNIT
from llmo.evaluation.throughput.problems import Setup, loaded_run
from llmo.evaluation.throughput.row import Row, Target, compared
from llmo.evaluation.throughput.timing import Effort, in_turn
from llmo.tasks.text import load_tokenizer

MIXED: Sequence[Sequence[str]] = (
    ("keep",), ("decay_more", "clip_more"), ("optimizer_lion",), ("optimizer_sgd",), ("optimizer_schedule_free",),
    ("batch_double",), ("smooth_more",), ("augment_swap",), ("augment_keyboard",), ("augment_synonyms",),
    ("select_clean",), ("adapter_lora",), ("adapter_dora",), ("adapter_ia3",), ("freeze_more",), ("distil_averaged",),
    ("distil_best", "distil_hotter"), ("perturb_noise",), ("perturb_fgm",), ("anchor_set",), ("prune_more",),
    ("quantise_int8",), ("regularise_more",), ("augment_mask", "augment_stronger"),
)  # fmt: skip
"""Actions that replicas have taken, by turns: of every family that goes on working."""
SHAPES = ModelShape(24, 1), ModelShape(56, 2)


def mixed_menu(effort: Effort) -> Iterator[Row]:
    """96 replicas under two dozen different actions, against the same ones that keep."""
    for shape in SHAPES:
        setup = Setup(shape, 4 * len(MIXED))
        kept, mixed = (loaded_run(setup, "batched") for _ in range(2))
        _mix(mixed)
        rows = range(setup.replicas)
        found = in_turn({"keep": partial(kept.train, rows), "mixed": partial(mixed.train, rows)}, 25 * effort.scale)
        rates = {side: setup.replicas * setup.steps / seconds for side, seconds in found.items()}
        note = f"{setup}, {len(MIXED)} actions by turns, against keep alone"
        yield compared(
            "mixed-menu", setup.workload, rates["mixed"], rates["keep"], UNIT, Target("at least", 0.5),
            executor="batched", note=note,
        )  # fmt: skip


def _mix(run: Run) -> None:
    """Let every row take its actions, after an interval and a validation."""
    rows = range(run.replicas)
    for row in rows:
        run.states[row].problem.task.codec = load_tokenizer()
    run.train(rows)
    run.evaluate(rows)
    for row in rows:
        for name in MIXED[row % len(MIXED)]:
            action = catalog.get("actions", name)()
            assert action.allowed(run, row), name
            action.apply(run, row)
