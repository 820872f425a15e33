"""Instances: everything that makes one training problem, drawn from a seeded distribution.

`train`, `dev` and `test` share no text, no seed and no model shape. An optimizer step is 2 sequences of 32 tokens.
`problem.py` builds what is drawn here.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from llmo.budget import Cost, sequence_cost
from llmo.engine.models import ModelShape, llama_config, load_pretrained
from llmo.errors import LlmoError
from llmo.hyperparameters import Start
from llmo.tasks.text import DOMAINS, PARTS

SHAPES = {
    "train": (ModelShape(20, 1), ModelShape(32, 2)),
    "dev": (ModelShape(28, 1), ModelShape(36, 2)),
    "test": (ModelShape(24, 1), ModelShape(40, 2)),
}
"""The small and the large model shape of each part; larger budgets go to larger models, as they should."""
TOKENS = 32
BATCH = 2
VALIDATION_SEQUENCES, TEST_SEQUENCES = 32, 128
TEXT_GROUPS = 8
"""Stretches that each held-out text is cut into; instances of different stretches share no validation or test text."""
STEPS = (14, 24)
"""Least and most environment steps of an episode that only keeps."""
BUDGET_FACTOR = 16.0
"""Ratio of the largest budget to the smallest, which pays 14 steps of 8 optimizer steps of the smallest shape."""
SMALL_UNTIL = 6.0
"""Multiple of the smallest budget from which all models are large."""
LEAST_INTERVAL = 8
FARTHEST = {"prose": "code", "docstrings": "code", "code": "prose"}
"""Base domain of an intact start, by target: from a nearer one, small budgets improve nothing on train instances."""
DAMAGES = (0.0, 0.25, 0.5)
"""Noise on a base's weights, relative to their standard deviation."""
HIDEABLE = ("gradient", "sources", "teacher")
CLOSABLE = ("adapter", "augment", "distil", "load", "rollback")
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


@dataclass(frozen=True)
class Instance:
    """One training problem; equal instances give equal problems.

    Attributes:
        part: ``train``, ``dev`` or ``test``.
        index: Its place in the part.
        seed: Of everything random in it.
        shape: Model width and depth.
        domain: Target domain.
        text_group: Which group of the domain's held-out text validates and tests it.
        sources: The three materials, in the order of the slots at the start.
        changes: Shares of the budget at which the materials change slots, with the new order.
        start: From scratch, or pre-trained.
        base: Domain that the pre-trained base has seen; empty from scratch.
        damage: Standard deviation of noise on the base's weights, relative to theirs; 0 for an intact base.
        teacher: Name of a shipped teacher; empty for none.
        rate_factor: Starting rate over the default rate.
        steps: Environment steps at plain cost.
        interval: Optimizer steps in one environment step.
        budget: FLOPs.
        neutral: Feature groups that cannot be seen (train instances only).
        closed: First words of the actions that are not on offer (train instances only).
    """

    part: str
    index: int
    seed: int
    shape: ModelShape
    domain: str
    text_group: str
    sources: tuple[Source, ...]
    changes: tuple[tuple[float, tuple[int, ...]], ...]
    start: Start
    base: str
    damage: float
    teacher: str
    rate_factor: float
    steps: int
    interval: int
    budget: float
    neutral: tuple[str, ...]
    closed: tuple[str, ...]


def plain_cost(shape: ModelShape, interval: int) -> float:
    """FLOPs of one environment step with all weights trained and no teacher."""
    cost = _cost(shape)
    return interval * BATCH * cost.train + VALIDATION_SEQUENCES * cost.forward


def first_cost(shape: ModelShape, teacher: str) -> float:
    """FLOPs of the measurement before the first step: a validation pass of the model and of a teacher, if any."""
    costs = [_cost(shape), *([_teacher_cost(teacher)] if teacher else [])]
    return sum(VALIDATION_SEQUENCES * cost.forward for cost in costs)


@lru_cache(maxsize=64)
def _cost(shape: ModelShape) -> Cost:
    return sequence_cost(llama_config(shape), TOKENS)


@lru_cache(maxsize=64)
def _teacher_cost(teacher: str) -> Cost:
    return sequence_cost(load_pretrained(teacher).config, TOKENS)


def draw_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    if part not in PARTS:
        raise LlmoError("split", part, PARTS)
    if isinstance(index, bool) or not isinstance(index, numbers.Integral) or index < 0:
        raise LlmoError("instance", index, "an index from 0")
    if not 0 < budget_scale < math.inf:
        raise LlmoError("budget scale", budget_scale, "a positive finite number")
    index = int(index)
    rng = np.random.default_rng([PARTS.index(part), index])
    domain = str(rng.choice(DOMAINS))
    others = [other for other in DOMAINS if other != domain]
    kinds = ["clean", "noisy", str(rng.choice(["noisy", "off_domain", "both", "clean"]))]
    rng.shuffle(kinds)
    sources = tuple(_draw_source(rng, kind, domain, others) for kind in kinds)
    count = int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))
    changes = []
    order = (0, 1, 2)
    for share in sorted(rng.uniform(0.25, 0.75, count)):
        order = _another_order(rng, order)
        changes.append((float(share), order))
    start: Start = "scratch" if rng.random() < 0.5 else "pretrained"
    damage = float(rng.choice(DAMAGES, p=[0.2, 0.4, 0.4])) if start == "pretrained" else 0.0
    base = str(rng.choice(others)) if damage else FARTHEST[domain]
    choice = rng.choice(["none", "good", "early", "off_domain"], p=[0.4, 0.3, 0.15, 0.15])
    teacher_domain = str(rng.choice(others)) if choice == "off_domain" else domain
    teacher = "" if choice == "none" else f"teacher-{teacher_domain}-{'early' if choice == 'early' else 'good'}"
    shape, steps, interval = _draw_size(rng, part)
    return Instance(
        part=part,
        index=index,
        seed=int(rng.integers(2**61)) * 3 + PARTS.index(part),
        shape=shape,
        domain=domain,
        text_group=f"{domain}/{rng.integers(TEXT_GROUPS)}",
        sources=sources,
        changes=tuple(changes),
        start=start,
        base=base if start == "pretrained" else "",
        damage=damage,
        teacher=teacher,
        rate_factor=float(10 ** rng.uniform(-1.5, 1.5)),
        steps=steps,
        interval=interval,
        budget=budget_scale * (steps * plain_cost(shape, interval) + first_cost(shape, teacher)) * (1 + 1e-9),
        neutral=_dropped(rng, part, HIDEABLE),
        closed=_dropped(rng, part, CLOSABLE),
    )


def _draw_size(rng: np.random.Generator, part: str) -> tuple[ModelShape, int, int]:
    """Model shape, environment steps, optimizer steps in each: for a budget drawn from a range of `BUDGET_FACTOR`."""
    small, large = SHAPES[part]
    factor = BUDGET_FACTOR ** rng.random()
    affordable = plain_cost(large, LEAST_INTERVAL) / plain_cost(small, LEAST_INTERVAL)
    big = factor >= affordable and (factor >= SMALL_UNTIL or rng.random() < 0.5)
    shape = large if big else small
    total = factor * STEPS[0] * plain_cost(small, LEAST_INTERVAL)
    fixed, each = plain_cost(shape, 0), plain_cost(shape, 1) - plain_cost(shape, 0)
    most = int(total / (fixed + LEAST_INTERVAL * each))
    steps = int(rng.integers(STEPS[0], min(STEPS[1], most) + 1))
    return shape, steps, max(LEAST_INTERVAL, round((total / steps - fixed) / each))


def _dropped(rng: np.random.Generator, part: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """One of the names on a tenth of the train instances: a policy must also work where something is missing."""
    return (str(rng.choice(names)),) if part == "train" and rng.random() < 0.1 else ()


def _draw_source(rng: np.random.Generator, kind: str, domain: str, others: list[str]) -> Source:
    noise = float(rng.uniform(0.5, 0.9)) if kind in ("noisy", "both") else 0.0
    where = str(rng.choice(others)) if kind in ("off_domain", "both") else domain
    return Source(kind, where, int(2_000 * 100 ** rng.random()), noise)  # type: ignore[arg-type]


def _another_order(rng: np.random.Generator, order: tuple[int, ...]) -> tuple[int, ...]:
    while True:
        other = tuple(int(i) for i in rng.permutation(3))
        if other != order:
            return other
