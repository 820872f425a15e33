"""Instances of llmo/Continual-v0: the text shifts to another domain once or twice, and all of it is to be known.

A validation loss is the mean over the domains of all phases, from the beginning on: what is forgotten costs reward. The
materials of each phase are drawn as in llmo/LanguageModel-v1; those of earlier phases can be replayed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmo.mdp.instances import Instance, draw_rescaled_instance, valid_place
from llmo.mdp.materials import draw_sources
from llmo.tasks.text import DOMAINS

STREAM = 7
"""Apart from the random numbers of other environments."""
PHASES = (2, 3)


def draw_continual_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM])
    # Of llmo/LanguageModel-v1 it takes instances that nobody plays there.
    instance = draw_rescaled_instance(part, int(rng.integers(2**31, 2**32)), budget_scale)
    count = int(rng.choice(PHASES))
    domains = [instance.domain, *(str(name) for name in rng.permutation([d for d in DOMAINS if d != instance.domain]))]
    sources = tuple(source for domain in domains[:count] for source in draw_sources(rng, domain)[0])
    shares = (np.arange(1, count) + rng.uniform(-0.25, 0.25, count - 1)) / count
    changes = tuple((float(share), tuple(range(3 * phase, 3 * phase + 3))) for phase, share in enumerate(shares, 1))
    closed = tuple(name for name in instance.closed if name != "source")
    return replace(
        instance, index=int(index), sources=sources, changes=changes, closed=closed, phases=tuple(domains[:count])
    )
