"""Dirt in training data: sequences that nearly repeat others, and text that was decoded wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.kinds import PADDING
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.labelled import Labelled
from llmo.tasks.task import Task

MOJIBAKE = "caf\u00c3\u00a9 d\u00c3\u00a9j\u00c3\u00a0 \u00e2\u20ac\u0153vu\u00e2\u20ac\u009d na\u00c3\u00afve "
"""UTF-8 that was read as Windows-1252."""
MOST_COPIED = 8
"""Sequences that the copies are of, at most."""


def soil(task: Task, repeated: float, broken: float, rng: np.random.Generator) -> None:
    """Put dirt into every material of a task, in place of what was there.

    Args:
        task: Whose materials.
        repeated: Share of the sequences that become copies of a few others, with one token changed.
        broken: Share that becomes text which was decoded wrongly.
        rng: Random numbers.
    """
    assert task.codec is not None
    bad = np.array(task.codec.encode_batch([MOJIBAKE * 20], add_special_tokens=False)[0].ids)
    if isinstance(task, CausalLM):
        sources: list[NDArray[Any]] = []
        for index, source in enumerate(task.sources):
            # One source may fill several slots.
            first = next(place for place, other in enumerate(task.sources) if other is source)
            if first < index:
                sources.append(sources[first])
                continue
            copy = source.copy()
            stretches = copy[: len(copy) // task.tokens * task.tokens].reshape(-1, task.tokens)
            _soil(stretches, repeated, broken, bad, rng)
            sources.append(copy)
        task.sources = tuple(sources)
    elif isinstance(task, Labelled):
        examples: list[Any] = []
        for index, (ids, labels) in enumerate(task.sources):
            first = next(place for place, other in enumerate(task.sources) if np.shares_memory(other[0], ids))
            if first < index:
                examples.append(examples[first])
                continue
            ids, labels = ids.copy(), labels.copy()
            copied = _soil(ids, repeated, broken, bad, rng)
            for here, there in copied.items():
                labels[here] = labels[there]
            examples.append((ids, labels))
        task.sources = examples


def _soil(
    rows: NDArray[Any], repeated: float, broken: float, bad: NDArray[np.int64], rng: np.random.Generator
) -> dict[int, int]:
    """Rows [N, T] changed in place; which of them have become copies, and of what."""
    order = rng.permutation(len(rows))
    copies, wrong = round(repeated * len(rows)), round(broken * len(rows))
    originals = order[copies + wrong :][:MOST_COPIED]
    found = {}
    for here in order[:copies] if len(originals) else ():
        there = int(rng.choice(originals))
        rows[here] = rows[there]
        real = np.flatnonzero(rows[here] != PADDING)
        rows[here, rng.choice(real)] = rng.choice(rows[here][real])
        found[int(here)] = there
    for here in order[copies : copies + wrong]:
        real = np.flatnonzero(rows[here] != PADDING)
        # Special tokens at either end stay.
        inner = real[1:-1]
        rows[here, inner] = np.resize(bad, len(inner))
    return found
