"""A user's own model and data as an environment: the same observation and menu as where policies are learned.

Instance `index` of the part ``test`` is the real thing: all data, the default rate, the whole budget; the index is the
seed. Those of ``train`` differ as fine-tunes do, in rate, budget and seed, for policies that learn on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmo.actions.menu import MENU
from llmo.budget import Cost, sequence_cost
from llmo.engine.adapters import grow
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.models import ModelShape
from llmo.engine.state import Problem
from llmo.errors import LlmoError
from llmo.hyperparameters import Hyperparameters, Start, default_learning_rate
from llmo.kinds import kind_of
from llmo.mdp.instances import SLACK, Instance, valid_place
from llmo.mdp.materials import Source
from llmo.mdp.spec import EnvSpec
from llmo.tasks.task import Examples, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = 20
"""Environment steps of an episode that only keeps: as in the environments that policies are learned in."""
LEAST_INTERVAL = 4
"""Optimizer steps of an environment step below which there are fewer environment steps instead."""
LOOKS = 0.25
"""Share of the budget that validation may take, unless `LEAST_VALIDATION` sequences are more."""
LEAST_VALIDATION = 64
RATES, BUDGETS = 30.0, 4.0
"""Most by which `train` instances start above or below the default rate; most by which their budgets are smaller."""


@dataclass(frozen=True)
class OwnProblem:
    """What is to be improved.

    Attributes:
        name: Says what it is, in records.
        model: The model, with the weights that it starts from.
        task: The data; one to three sources.
        sources: How many of the task's three materials differ.
        start: From scratch, or pre-trained.
        batch: Sequences in an optimizer step.
        budget: FLOPs.
        rank: Of LoRA factors on the frozen model; 0 trains all weights.
        numbers: Whether numbers are predicted, which have no soft targets.
    """

    name: str
    model: PreTrainedModel
    task: Task
    sources: int
    start: Start
    batch: int
    budget: float
    rank: int = 0
    numbers: bool = False


def plan(cost: Cost, validation: int, batch: int, budget: float) -> tuple[int, int]:
    """Environment steps, and optimizer steps in each, that a budget pays.

    Args:
        cost: Of one sequence.
        validation: Validation sequences.
        batch: Sequences in an optimizer step.
        budget: FLOPs.

    Raises:
        LlmoError: It does not pay one optimizer step between two validation passes.
    """
    look, step = validation * cost.forward, batch * cost.train
    left = budget * SLACK - look
    if left < look + step:
        least = 2 * look + step
        raise LlmoError(
            "budget", f"{budget:.3g} FLOPs", f"at least {least:.3g}: one step between two validation passes"
        )
    interval = int((left / STEPS - look) // step)
    if interval >= LEAST_INTERVAL:
        return STEPS, interval
    steps = max(1, int(left // (look + LEAST_INTERVAL * step)))
    return steps, max(1, int((left / steps - look) // step))


def with_affordable_validation(own: OwnProblem) -> OwnProblem:
    """The same with fewer validation sequences, evenly chosen, where looking at all of them leaves little to train."""
    task = own.task
    count = len(task.validation.inputs)
    wanted = int(LOOKS * own.budget / (STEPS + 1) / own_cost(own).forward)
    if wanted >= count or count <= LEAST_VALIDATION:
        return own
    chosen = np.linspace(0, count - 1, max(LEAST_VALIDATION, wanted)).astype(int)
    fewer = copy.copy(task)
    fewer.validation = Examples(task.validation.inputs[chosen], task.validation.labels[chosen])
    return replace(own, task=fewer)


def own_cost(own: OwnProblem) -> Cost:
    """FLOPs of one sequence."""
    task = own.task
    return sequence_cost(own.model.config, task.tokens, own.rank, (), kind_of(own.model), task.positions)


def own_default_rate(own: OwnProblem) -> float:
    """The rate that training starts from."""
    parameters = sum(parameter.numel() for parameter in own.model.parameters())
    return default_learning_rate(parameters, own.start, "lora" if own.rank else "full")


def own_spec(own: OwnProblem, menu: tuple[str, ...] = MENU) -> EnvSpec:
    """The environment of a user's model and data.

    Args:
        own: Model and data.
        menu: Actions; those that cannot apply are left out.
    """
    validation, cost = len(own.task.validation.inputs), own_cost(own)
    closed = (*(("source",) if own.sources == 1 else ()), *(("distil",) if own.numbers else ()))
    frozen = ("adapter_full", "adapter_lora", "adapter_merge") if own.rank else ()
    # Nothing is old or private; what is delivered is a plain model, which predicts alone, without virtual tokens, and
    # reads texts as they are.
    left_out = ("replay", "noise", "predict", "adapter_prompt", "adapter_prefix", "template", "shots")
    source = Source("clean", own.name, 0, 0.0)

    def draw(part: str, index: int, budget_scale: float = 1.0) -> Instance:
        valid_place(part, index, budget_scale)
        rng = np.random.default_rng([index, len(part)])
        rate = budget = 1.0
        if part != "test":
            rate, budget = RATES ** rng.uniform(-1, 1), BUDGETS ** -rng.uniform()
        flops = budget_scale * budget * own.budget
        steps, interval = plan(cost, validation, own.batch, flops)
        return Instance(
            part=part,
            index=index,
            seed=int(rng.integers(2**62)),
            shape=ModelShape(4, 1),
            domain=own.name,
            text_group=f"{own.name}/0",
            sources=(source, source, source),
            changes=(),
            start=own.start,
            base="",
            damage=0.0,
            teacher="",
            rate_factor=rate,
            steps=steps,
            interval=interval,
            budget=flops * SLACK,
            neutral=("sources",) if own.sources == 1 else (),
            closed=closed,
            rank=own.rank,
        )

    return EnvSpec(
        own.name,
        tuple(name for name in menu if name not in frozen and not name.startswith(left_out)),
        draw,
        _builder(own),
        frozen_base=lambda instance: own.name if own.rank else "",
        model=lambda instance: own.model,
    )


def _builder(own: OwnProblem) -> Callable[[Instance], Problem]:
    default = own_default_rate(own)

    def build(instance: Instance) -> Problem:
        return Problem(
            task=own.task,
            weights=_weights(own, instance.seed),
            teacher=None,
            start=own.start,
            hyperparameters=Hyperparameters(learning_rate=instance.rate_factor * default),
            roles=((0.0, (0, 1, 2)),),
            interval=instance.interval,
            batch=own.batch,
            budget=instance.budget,
            seed=instance.seed,
            rank=own.rank,
        )

    return build


def _weights(own: OwnProblem, seed: int) -> Tensor:
    """All weights of the model, or fresh factors that change nothing yet."""
    if not own.rank:
        return Layout(own.model).flatten(own.model)
    layout = FactorLayout(own.model)
    factors = torch.zeros(layout.size)
    grow(layout.factors, factors, 0, own.rank, seed % 2**31)
    return factors
