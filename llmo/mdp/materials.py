"""What an instance learns from: three anonymous sources, whose quality may change under way, and perhaps a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmo.tasks.text import DOMAINS

Kind = Literal["clean", "noisy", "off_domain", "both"]


@dataclass(frozen=True)
class Source:
    """One material to train on.

    Attributes:
        kind: Clean target text, noisy target text, clean text of another domain, or noisy text of another.
        domain: Where the text comes from.
        bytes: How much of it, about.
        noise: Share of tokens replaced by random ones, 0 to 1.
    """

    kind: Kind
    domain: str
    bytes: int
    noise: float


def others(domain: str) -> list[str]:
    """The domains but one."""
    return [other for other in DOMAINS if other != domain]


def draw_teacher(rng: np.random.Generator, domain: str) -> str:
    """Name of a shipped teacher, good, early or of another domain; or of none. A folder's text has no teacher."""
    choice = rng.choice(["none", "good", "early", "off_domain"], p=[0.4, 0.3, 0.15, 0.15])
    teacher_domain = str(rng.choice(others(domain))) if choice == "off_domain" else domain
    if choice == "none" or teacher_domain not in DOMAINS:
        return ""
    return f"teacher-{teacher_domain}-{'early' if choice == 'early' else 'good'}"


def draw_sources(
    rng: np.random.Generator, domain: str
) -> tuple[tuple[Source, ...], tuple[tuple[float, tuple[int, ...]], ...]]:
    """Three materials, shuffled, and up to two moments at which they change slots, each with the new order."""
    kinds = ["clean", "noisy", str(rng.choice(["noisy", "off_domain", "both", "clean"]))]
    rng.shuffle(kinds)
    sources = tuple(_draw_source(rng, kind, domain) for kind in kinds)
    count = int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))
    changes = []
    order: tuple[int, ...] = (0, 1, 2)
    for share in sorted(rng.uniform(0.25, 0.75, count)):
        order = _another_order(rng, order)
        changes.append((float(share), order))
    return sources, tuple(changes)


def _draw_source(rng: np.random.Generator, kind: str, domain: str) -> Source:
    noise = float(rng.uniform(0.5, 0.9)) if kind in ("noisy", "both") else 0.0
    where = str(rng.choice(others(domain))) if kind in ("off_domain", "both") else domain
    return Source(kind, where, int(2_000 * 100 ** rng.random()), noise)  # type: ignore[arg-type]


def _another_order(rng: np.random.Generator, order: tuple[int, ...]) -> tuple[int, ...]:
    while True:
        other = tuple(int(i) for i in rng.permutation(3))
        if other != order:
            return other
