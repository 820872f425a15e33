"""Training runs whose bottleneck was put there on purpose: what naming causes is checked on.

A healthy run is a small Llama that learns one large clean source from scratch at the default rate; each plant changes
one thing about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llmo.engine.models import ModelShape
from llmo.errors import LlmoError
from llmo.mdp.instances import SLACK, TEXT_GROUPS, Instance, draw_seed, valid_place
from llmo.mdp.materials import Source
from llmo.mdp.sizes import SHAPES, episode_cost, model_cost
from llmo.tasks.text import DOMAINS

STREAM = 8
"""Apart from the random numbers of other environments."""
STEPS, INTERVAL = 16, 30
LARGE = 200_000
"""Bytes of a healthy source."""

Change = Callable[[np.random.Generator, Instance], Instance]


def _healthy(rng: np.random.Generator, instance: Instance) -> Instance:
    return instance


def _slow(rng: np.random.Generator, instance: Instance) -> Instance:
    """A rate that is 30 to 300 times too low."""
    return replace(instance, rate_factor=float(10 ** rng.uniform(-2.5, -1.5)))


def _fast(rng: np.random.Generator, instance: Instance) -> Instance:
    """A rate that is 15 to 100 times too high."""
    return replace(instance, rate_factor=float(10 ** rng.uniform(1.2, 2.0)))


def _noisy(rng: np.random.Generator, instance: Instance) -> Instance:
    """Two of three sources in which 50% to 90% of the tokens are random."""
    noisy = [Source("noisy", instance.domain, LARGE, float(rng.uniform(0.5, 0.9))) for _ in range(2)]
    sources = [instance.sources[0], *noisy]
    return replace(instance, sources=tuple(sources[place] for place in rng.permutation(3)))


def _little(rng: np.random.Generator, instance: Instance) -> Instance:
    """Sources of 500 to 1,200 bytes."""
    return replace(instance, sources=(Source("clean", instance.domain, int(rng.uniform(500, 1200)), 0.0),) * 3)


def _overfit(rng: np.random.Generator, instance: Instance) -> Instance:
    """A model that is large for its 6,000 to 12,000 bytes, and trained on them many times."""
    sources = (Source("clean", instance.domain, int(rng.uniform(6_000, 12_000)), 0.0),) * 3
    return replace(instance, sources=sources, interval=2 * INTERVAL, shape=ModelShape(48, 2))


def _small(rng: np.random.Generator, instance: Instance) -> Instance:
    """A model of width 4."""
    return replace(instance, interval=3 * INTERVAL, shape=ModelShape(4, 1))


def _shifting(rng: np.random.Generator, instance: Instance) -> Instance:
    """Text that shifts to another domain after a third to half of the run, at twice the default rate."""
    other = str(rng.choice([domain for domain in DOMAINS if domain != instance.domain]))
    sources = (*instance.sources, *(Source("clean", other, LARGE, 0.0),) * 3)
    changes = ((float(rng.uniform(0.35, 0.5)), (3, 4, 5)),)
    return replace(instance, sources=sources, changes=changes, phases=(instance.domain, other), rate_factor=2.0)


PLANTS: dict[str, Change] = {
    "none": _healthy,
    "optimisation": _slow,
    "instability": _fast,
    "data quality": _noisy,
    "data quantity": _little,
    "overfitting": _overfit,
    "capacity": _small,
    "forgetting": _shifting,
}
"""What each cause is planted by."""


def planted_instance(cause: str, part: str, index: int) -> Instance:
    """A run with a bottleneck of its own.

    Args:
        cause: One of `PLANTS`.
        part: ``train``, ``dev`` or ``test``, which share no text and no seed.
        index: From 0; every index is another run.

    Raises:
        LlmoError: No such cause, part or index.
    """
    if cause not in PLANTS:
        raise LlmoError("cause", cause, PLANTS)
    place = valid_place(part, index, 1.0)
    rng = np.random.default_rng([*place, list(PLANTS).index(cause), STREAM])
    domain = str(rng.choice(DOMAINS))
    instance = Instance(
        part=part,
        index=int(index),
        seed=draw_seed(rng, part),
        shape=SHAPES[part][1],
        domain=domain,
        text_group=f"{domain}/{rng.integers(TEXT_GROUPS)}",
        sources=(Source("clean", domain, LARGE, 0.0),) * 3,
        changes=(),
        start="scratch",
        base="",
        damage=0.0,
        teacher="",
        rate_factor=1.0,
        steps=STEPS,
        interval=INTERVAL,
        budget=0.0,
        neutral=(),
        closed=(),
    )
    return _paid(PLANTS[cause](rng, instance))


def _paid(instance: Instance) -> Instance:
    """With a budget for all of its steps."""
    cost = model_cost(instance.shape)
    return replace(instance, budget=episode_cost(cost, "", instance.steps, instance.interval) * SLACK)
