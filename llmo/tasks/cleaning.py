"""Which parts of a material are worth training on: near-duplicates and text that was decoded wrongly are not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from llmo.kinds import PADDING
from llmo.tasks.task import Codec, Task

Rule = Literal["duplicates", "broken"]
"""What is left out: near-duplicates, or what was decoded wrongly."""

SHINGLE = 3
"""Tokens in a row by which sequences are compared."""
LIKE = 0.8
"""Share of two sequences' runs of tokens that they have in common, from which they are near-duplicates (Jaccard)."""
BANDS, ROWS = 16, 4
"""Of the hashes that find what may be alike (Broder 1997): two at `LIKE` are missed once in 5,000 times."""
COMPARED = 8
"""Earlier sequences of a group of hashes that one is compared with, at most."""
LOOKED_AT = 100_000
"""Sequences of a material that are looked at; what stands behind them is taken for clean."""
DECODED = 4096
"""Sequences that are decoded at once."""
BROKEN = re.compile("\ufffd|\x00|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\u00ef\u00bb\u00bf")
"""Replacement characters, NUL, UTF-8 that was read as Latin-1 or Windows-1252, a byte order mark within text."""


def near_duplicates(sequences: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """Which of some sequences [N, T] nearly repeat an earlier one, [N]: the first of them is none."""
    duplicate = np.zeros(len(sequences), bool)
    hashes, real = _run_hashes(sequences)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) | np.uint64(1) for _ in range(2))
    signature = np.stack([np.where(real, hashes * x + y, np.uint64(2**64 - 1)).min(1) for x, y in zip(a, b)], 1)
    groups: dict[tuple[int, bytes], list[int]] = {}
    for band in range(BANDS):
        part = np.ascontiguousarray(signature[:, ROWS * band : ROWS * (band + 1)])
        _, places, counts = np.unique(part, axis=0, return_inverse=True, return_counts=True)
        for found in np.flatnonzero((counts[places.reshape(-1)] > 1) & real.any(1)):
            groups.setdefault((band, part[found].tobytes()), []).append(int(found))
    alike: dict[int, set[int]] = {}
    for members in groups.values():
        for at, member in enumerate(members):
            alike.setdefault(member, set()).update(members[: min(at, COMPARED)])
    for place in sorted(alike):
        runs = set(hashes[place][real[place]].tolist())
        earlier = (other for other in sorted(alike[place]) if not duplicate[other])
        others = (set(hashes[other][real[other]].tolist()) for other in earlier)
        duplicate[place] = any(len(runs & theirs) >= LIKE * len(runs | theirs) for theirs in others)
    return duplicate


def _run_hashes(sequences: NDArray[np.signedinteger]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """A hash of each run of tokens, [N, T - `SHINGLE` + 1], and which of them hold no padding."""
    count = sequences.shape[1] - SHINGLE + 1
    factors = np.random.default_rng(1).integers(2**63, size=SHINGLE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    values, known = sequences.astype(np.int64).astype(np.uint64), sequences != PADDING
    hashes, real = np.zeros((len(sequences), count), np.uint64), np.ones((len(sequences), count), bool)
    for offset, factor in enumerate(factors):
        hashes += factor * values[:, offset : offset + count]
        real &= known[:, offset : offset + count]
    # Nearby sums are pulled apart.
    return (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15), real


def wrongly_decoded(sequences: NDArray[np.signedinteger], codec: Codec) -> NDArray[np.bool_]:
    """Which of some sequences [N, T] hold text that was decoded wrongly, [N]."""
    found = np.zeros(len(sequences), bool)
    for first in range(0, len(sequences), DECODED):
        rows = sequences[first : first + DECODED]
        texts: Sequence[str] = codec.decode_batch([row[row != PADDING].tolist() for row in rows])
        # A sequence may begin or end within a character.
        found[first : first + DECODED] = [BROKEN.search(text.strip("\ufffd")) is not None for text in texts]
    return found


_BAD: WeakKeyDictionary[Task, dict[str, list[NDArray[np.bool_]]]] = WeakKeyDictionary()


def bad_sequences(task: Task, rule: Rule) -> list[NDArray[np.bool_]]:
    """Which sequences of each material a rule leaves out; found once for each task.

    Args:
        task: Whose materials.
        rule: ``duplicates`` or ``broken``.
    """
    known = _BAD.setdefault(task, {})
    if rule not in known:
        # One source may fill several slots.
        same: dict[tuple[int, tuple[int, ...]], NDArray[np.bool_]] = {}
        found = []
        for index in range(len(task.sources)):
            sequences = task.sequences(index)
            place = sequences.__array_interface__["data"][0], sequences.shape
            if place not in same:
                same[place] = _bad(sequences, rule, task.codec)
            found.append(same[place])
        known[rule] = found
    return known[rule]


def _bad(sequences: NDArray[np.signedinteger], rule: Rule, codec: Codec | None) -> NDArray[np.bool_]:
    bad, part = np.zeros(len(sequences), bool), sequences[:LOOKED_AT]
    if len(part) and rule == "duplicates" and part.shape[1] >= SHINGLE:
        bad[: len(part)] = near_duplicates(part)
    elif len(part) and rule == "broken" and codec is not None:
        bad[: len(part)] = wrongly_decoded(part, codec)
    # Something is left of every material.
    return bad if not bad.all() else np.zeros_like(bad)


def places_left(task: Task, rules: Sequence[Rule]) -> list[NDArray[np.int64]] | None:
    """Where sequences of each material may be drawn from under some rules; None where there are none."""
    if not rules:
        return None
    left = []
    for index in range(len(task.sources)):
        bad = np.logical_or.reduce([bad_sequences(task, rule)[index] for rule in rules])
        places = task.places_without(index, bad & (not bad.all()))
        left.append(places if len(places) else task.places_without(index, np.zeros_like(bad)))
    return left
