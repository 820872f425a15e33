"""Soft targets for distillation: from an external teacher, or from a replica's own averaged weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmo.engine.executors import Executor, causal_inputs
from llmo.engine.state import Problem, State

DISTILLATION_WEIGHT = 0.5
"""Share of the loss that comes from the soft targets."""


@torch.no_grad()
def soft_targets(
    executor: Executor, states: Sequence[State], averaged: Sequence[Tensor], inputs: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """What n replicas learn from besides the labels.

    Args:
        executor: Runs the averaged weights.
        states: The replicas, n.
        averaged: Averaged weights of each, n of [P].
        inputs: Token ids [n, B, T].

    Returns:
        Probabilities [k, B, T, V] of the k replicas that distil, in order, and their share in the loss of each replica [n];
        None twice when no replica distils.
    """
    modes = [state.hyperparameters.distillation for state in states]
    taught = [place for place, mode in enumerate(modes) if mode != "off"]
    if not taught:
        return None, None
    logits: dict[int, Tensor] = {}
    own = [place for place in taught if modes[place] == "averaged"]
    if own:
        rows = executor.logits(torch.stack([averaged[place] for place in own]), inputs[own])
        logits.update(zip(own, rows, strict=True))
    for place in taught:
        if modes[place] == "teacher":
            logits[place] = teacher_logits(states[place].problem, inputs[place])
    share = torch.zeros(len(states))
    share[taught] = DISTILLATION_WEIGHT
    return torch.stack([logits[place] for place in taught]).softmax(-1), share


@torch.no_grad()
def teacher_logits(problem: Problem, inputs: Tensor) -> Tensor:
    """Logits [B, T, V] of a problem's teacher; one replica at a time, so that they do not depend on the others."""
    result: Tensor = problem.teacher(input_ids=inputs, **causal_inputs(inputs.shape[-1])).logits
    return result


def teacher_loss(problem: Problem) -> float:
    """Validation loss of a problem's teacher, nats per token."""
    examples = problem.task.validation
    return problem.task.score(teacher_logits(problem, examples.inputs)[None], examples.labels[None]).item()
