"""Instances of llmo/FineTune-v0 and v2: what people fine-tune for, task by task; most have one source and no teacher.

A policy that is to help with anybody's model learns here. The parts share no seed and no model shape, and of one task
no example; but a docstring that is classified in one part may stand in the running text of another.
`draw_general_instance` gives these and those of llmo/LanguageModel-v1 by turns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llmo.engine.models import build_model
from llmo.engine.state import Problem
from llmo.mdp.dirt import soil
from llmo.mdp.instances import WEIGHT_SCALE, Instance, draw_instance, draw_rescaled_instance, valid_place
from llmo.mdp.labelled_instances import FAMILIES, build_labelled_problem, draw_labelled_instance, labelled_template
from llmo.mdp.materials import Source
from llmo.mdp.problem import build_problem
from llmo.mdp.sizes import BUDGET_FACTOR, SHAPES, Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LANGUAGE_MODELS = 0.4
"""Share of instances that model running text; the other tasks have equal shares of the rest."""
ONE_SOURCE = 0.6
"""Share of instances with one clean source."""
DEFAULT_RATE = 0.5
"""Share of instances that start from the default rate."""
STREAM, DIRTY, LONG, GENERAL = 6, 1, 2, 3
"""Apart from the random numbers of other environments, and of what is drawn here besides."""
WIDE, BATCHES = 0.3, 4
"""Of llmo/FineTune-v2: the share of instances with larger batches, and how many usual batches make one. That is 8
sequences, as `transformers` has by default; there is less noise in what is seen of them."""
LEAST, MOST = 2.0, 2 * BUDGET_FACTOR
"""Smallest and largest budget of llmo/FineTune-v2, in multiples of the smallest of v0."""
DIRT, DIRTY_SHARE = (0.1, 0.5), 0.45
"""How much of the data is dirt of one kind where there is any, and how often there is."""


def draw_mixed_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance of llmo/FineTune-v0 at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM])
    return _draw(rng, part, index, budget_scale, Sizes(*SHAPES[part]))


def draw_longer_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The same for llmo/FineTune-v2: larger budgets and batches, and models whose default rate is about right.

    In v0 the rate that half of the instances start from is the default, but weights of another scale make it wrong.
    Those who fine-tune have a model and a default that others have tried: here half of the instances are such.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM, LONG])
    batches = BATCHES if rng.random() < WIDE else 1
    instance = _draw(rng, part, index, budget_scale, Sizes(*SHAPES[part], max(LEAST, batches), MOST, batches))
    return replace(instance, weight_scale=1.0) if instance.rate_factor == 1.0 else instance


def draw_general_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance of llmo/General-v0: by chance one of llmo/LanguageModel-v1 or of llmo/FineTune-v2."""
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM, GENERAL])
    draw = draw_rescaled_instance if rng.random() < 0.5 else draw_longer_instance
    return replace(draw(part, int(rng.integers(2**31, 2**32)), budget_scale), index=int(index))


def _draw(rng: np.random.Generator, part: str, index: int, budget_scale: float, sizes: Sizes) -> Instance:
    # Of the other environments it takes instances that nobody plays there.
    elsewhere = int(rng.integers(2**31, 2**32))
    if rng.random() < LANGUAGE_MODELS:
        instance = draw_instance(part, elsewhere, budget_scale, sizes)
    else:
        task = list(FAMILIES)[rng.integers(len(FAMILIES))]
        instance = draw_labelled_instance(task, part, elsewhere, budget_scale, sizes)
    instance = replace(instance, index=int(index))
    if instance.shape.family == "llama":
        instance = replace(instance, weight_scale=float(WEIGHT_SCALE ** rng.uniform(-1, 1)))
    if rng.random() < ONE_SOURCE:
        instance = _with_one_source(rng, instance)
    if rng.random() < DEFAULT_RATE:
        instance = replace(instance, rate_factor=1.0)
    return instance


def _with_one_source(rng: np.random.Generator, instance: Instance) -> Instance:
    """The same with one clean material, without a choice of sources and without a teacher."""
    source = Source("clean", instance.domain, int(10_000 * 40 ** rng.random()), 0.0)
    return replace(
        instance,
        sources=(source, source, source),
        changes=(),
        teacher="",
        neutral=tuple(sorted({*instance.neutral, "sources"})),
        closed=tuple(sorted({*instance.closed, "source"})),
    )


def build_mixed_problem(instance: Instance) -> Problem:
    """The problem of an instance; equal instances give equal ones."""
    return build_problem(instance) if instance.task == "causal_lm" else build_labelled_problem(instance)


def draw_dirty_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The same with dirt in the training data of seven in ten instances; see `llmo/mdp/dirt.py`."""
    instance = draw_mixed_instance(part, index, budget_scale)
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM, DIRTY])
    repeated, broken = rng.uniform(*DIRT, 2) * (rng.random(2) < DIRTY_SHARE)
    return replace(instance, repeated=float(repeated), broken=float(broken))


def build_dirty_problem(instance: Instance) -> Problem:
    """The problem of an instance; equal instances give equal ones."""
    problem = build_mixed_problem(instance)
    if instance.repeated or instance.broken:
        rng = np.random.default_rng([instance.seed, DIRTY])
        soil(problem.task, instance.repeated, instance.broken, rng)
    return problem


def mixed_template(instance: Instance) -> PreTrainedModel:
    """A model of the instance's task and shape, for its structure."""
    return build_model(instance.shape, 0) if instance.task == "causal_lm" else labelled_template(instance)
