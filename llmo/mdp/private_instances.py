"""Instances of llmo/Private-v0: language modelling under a budget of privacy beside that of FLOPs.

They are those of llmo/LanguageModel-v1 with one clean source, no teacher, and batches of 16 sequences, as noise is
added to every update. An episode ends when either budget is spent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmo.engine.privacy import Privacy
from llmo.engine.state import Problem
from llmo.mdp.instances import Instance, draw_rescaled_instance, valid_place
from llmo.mdp.materials import Source
from llmo.mdp.problem import build_problem
from llmo.mdp.sizes import BATCH, TOKENS

STREAM = 9
"""Apart from the random numbers of other environments."""
SEQUENCES = 16
"""In a batch."""
DELTA = 1e-5
EPSILONS = (2.0, 10.0)
LEAST_BYTES, MOST_BYTES = 40_000, 200_000


def draw_private_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget of FLOPs, and nothing else; for measuring speed-up.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM])
    # Of llmo/LanguageModel-v1 it takes instances that nobody plays there.
    instance = draw_rescaled_instance(part, int(rng.integers(2**31, 2**32)), 2 * budget_scale)
    size = int(LEAST_BYTES * (MOST_BYTES / LEAST_BYTES) ** rng.random())
    epsilon = float(EPSILONS[0] * (EPSILONS[1] / EPSILONS[0]) ** rng.random())
    return replace(
        instance,
        index=int(index),
        sources=(Source("clean", instance.domain, size, 0.0),) * 3,
        changes=(),
        teacher="",
        interval=max(2, 2 * instance.interval * BATCH // SEQUENCES),
        neutral=tuple(sorted({*instance.neutral, "sources"})),
        closed=tuple(sorted({*instance.closed, "source"})),
        epsilon=epsilon,
    )


def build_private_problem(instance: Instance) -> Problem:
    """The problem of an instance; equal instances give equal ones."""
    problem = build_problem(instance)
    # A stretch of text is in every window that touches it, and about twice as many windows touch it as begin in it.
    examples = problem.task.sizes[0] // (2 * TOKENS)
    return replace(problem, batch=SEQUENCES, privacy=Privacy(instance.epsilon, DELTA, examples))
