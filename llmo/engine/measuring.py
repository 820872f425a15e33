"""From what a row has summed up to a `Measurement`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.engine.state import State, Sums
from llmo.measurement import Measurement, Triple


def measurement(state: State, interval: Sums, size: float, work: float) -> Measurement:
    """What a row's interval measured.

    Args:
        state: The row after its validation pass.
        interval: The sums that it closed.
        size: Bytes of its weights over those of dense float32 ones.
        work: FLOPs of its predictions over those of the whole model.
    """
    counts = interval.source_count
    steps = max(1, interval.steps)
    sizes = state.problem.task.sizes
    # What a loss on private data says is not accounted for, so nobody sees it.
    privacy, epsilon = state.problem.privacy, state.epsilon
    seen = privacy is None
    return Measurement(
        step=state.step,
        optimizer_steps=interval.steps,
        spent=state.share,
        cost=interval.cost,
        validation_loss=state.loss,
        best_validation_loss=state.best_loss,
        best_priced_loss=state.best_priced if state.problem.priced else math.nan,
        train_loss=interval.loss / steps if interval.steps and seen else math.nan,
        source_loss=_triple(state.source_loss if seen else np.full(3, math.nan)),
        source_share=_triple(counts / max(1, counts.sum())),
        source_tokens=_triple(np.array([sizes[role] for role in state.roles])),
        mixture=_triple(state.mixture),
        gradient_norm=interval.norm / steps,
        clipped=interval.clipped / steps,
        momentum_cosine=interval.momentum_cosine,
        gradient_cosine=interval.gradient_cosine,
        update_ratio=interval.update_ratio,
        learning_rate=interval.learning_rate,
        teacher_loss=state.teacher_loss,
        diverged=state.diverged,
        forgotten=state.forgotten,
        privacy=math.nan if privacy is None else epsilon / privacy.epsilon,
        size=size,
        work=work,
        registers=_triple(np.array([_saved_loss(state, name) for name in "123"])),
        epsilon=epsilon,
        delta=math.nan if privacy is None else privacy.delta,
    )


def _saved_loss(state: State, name: str) -> float:
    return state.registers[name][3] if name in state.registers else math.nan


def _triple(values: NDArray[Any]) -> Triple:
    a, b, c = (float(value) for value in values)
    return a, b, c
