"""Instances of llmo/Adapters-v0: LoRA adapters on one frozen pre-trained base, as in fine-tuning a large model.

All instances of a part share its base; they differ in the adapter, the data, the starting rate, the teacher and the
budget, of which the smallest pays 14 steps of 8 optimizer steps. `train`, `dev` and `test` share no base, no text and
no seed.
"""

from __future__ import annotations

import numpy as np

from llmo.mdp.instances import (
    CLOSABLE,
    HIDEABLE,
    SLACK,
    Instance,
    draw_dropped,
    draw_rate_factor,
    draw_seed,
    draw_text_group,
    valid_place,
)
from llmo.mdp.materials import draw_sources, draw_teacher
from llmo.mdp.sizes import (
    BUDGET_FACTOR,
    LEAST_INTERVAL,
    SHAPES,
    STEPS,
    draw_steps,
    episode_cost,
    model_cost,
    plain_cost,
)

BASE_DOMAIN, DOMAIN = "prose", "code"
"""Domain that the bases have seen, and the one that they are adapted to: on train instances the pair that pays best."""
RANKS = (2, 4, 8)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGET_MODULES: tuple[tuple[str, ...], ...] = ((), ATTENTION, MLP)
"""Linear layers that an adapter is on: all, or those of one kind of sublayer."""
STREAM = 1
"""Apart from the random numbers of llmo/LanguageModel-v0, so that the two share no seed."""


def draw_adapter_instance(part: str, index: int, budget_scale: float = 1.0) -> Instance:
    """The instance at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), STREAM])
    sources, changes = draw_sources(rng, DOMAIN)
    teacher = draw_teacher(rng, DOMAIN)
    rank, modules = int(rng.choice(RANKS)), TARGET_MODULES[rng.integers(len(TARGET_MODULES))]
    shape = SHAPES[part][1]
    cost = model_cost(shape, rank, modules)
    total = BUDGET_FACTOR ** rng.random() * STEPS[0] * plain_cost(cost, LEAST_INTERVAL)
    steps, interval = draw_steps(rng, total, cost)
    return Instance(
        part=part,
        index=int(index),
        seed=draw_seed(rng, part),
        shape=shape,
        domain=DOMAIN,
        text_group=draw_text_group(rng, DOMAIN),
        sources=sources,
        changes=changes,
        start="pretrained",
        base=BASE_DOMAIN,
        damage=0.0,
        teacher=teacher,
        rate_factor=draw_rate_factor(rng),
        steps=steps,
        interval=interval,
        budget=budget_scale * episode_cost(cost, teacher, steps, interval) * SLACK,
        neutral=draw_dropped(rng, part, HIDEABLE),
        closed=draw_dropped(rng, part, CLOSABLE),
        rank=rank,
        target_modules=modules,
    )
