"""A row's next interval, drawn in advance: batches, rates and costs follow from the row's state and counters alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.augment import Words, augment
from llmo.engine.batches import draw_batches
from llmo.engine.layout import ALIGNED
from llmo.engine.optimizer import CLIP_NORM
from llmo.engine.selecting import candidates
from llmo.engine.state import State
from llmo.engine.streams import GENERATED, uniform
from llmo.engine.vectors import WHOLE, Whole
from llmo.hyperparameters import Hyperparameters
from llmo.tasks.cleaning import Rule, places_left

SAMPLED_FROM, EVERY = 2**17, 17
"""Weights from which a model is compared on a sample: one cache line in so many, a prime that no width has."""


@dataclass(frozen=True)
class Interval:
    """What a row does in S optimizer steps.

    Attributes:
        row: Which.
        first: Data cursor of its first batch.
        inputs: Token ids, [S, B, T]; twice as many sequences where half of them will be selected.
        labels: [S, B, P].
        slots: Which slot each sequence came from, [S, B]; -1 for one that is replayed.
        rates: Learning rates, [S].
        cost: FLOPs of a step.
    """

    row: int
    first: int
    inputs: Tensor
    labels: Tensor
    slots: NDArray[np.int64]
    rates: list[float]
    cost: float

    def to(self, device: torch.device) -> Interval:
        """The same with its tensors on a device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    @property
    def steps(self) -> int:
        """S."""
        return len(self.rates)


def draw_interval(
    row: int, state: State, steps: int, cost: float, default_rate: float, words: Words, generated: Tensor | None = None
) -> Interval:
    """The next interval of a row.

    Args:
        row: Which.
        state: Its state.
        steps: S, at least 1.
        cost: FLOPs of a step.
        default_rate: What a schedule multiplies.
        words: What is known of the tokens.
        generated: What the model itself has written, [G, T + 1]; None for nothing.
    """
    problem = state.problem
    shares = [min(1.0, (state.spent + step * cost) / problem.budget) for step in range(steps)]
    cursors = np.arange(state.cursor, state.cursor + steps)
    seeds = np.full(steps, problem.seed, np.uint64)
    roles = np.array([state.roles_at(share) for share in shares])
    settings = state.hyperparameters
    inputs, labels, slots = draw_batches(
        problem.task,
        seeds,
        cursors,
        problem.batch * candidates(settings.selection),
        state.mixture,
        roles,
        settings.level("replay"),
        [state.old_at(share) for share in shares] if settings.replay else (),
        places_left(problem.task, left_out(settings)),
    )
    strength = settings.level("strength")
    inputs, labels = augment(inputs, labels, settings.augmentation, strength, seeds, cursors, words)
    if settings.generated and generated is not None:
        u = uniform(seeds, cursors, GENERATED, inputs.shape[1])
        share = settings.level("generated")
        own = np.nonzero(u < share)
        # Below the share, the number says which.
        written = generated.cpu().numpy()[(u[own] / share * len(generated)).astype(np.int64)]
        inputs, labels = inputs.copy(), labels.copy()
        inputs[own], labels[own], slots[own] = written[:, :-1], written[:, 1:], -1
    inputs = problem.task.read(inputs, settings)
    rates = [state.rate_at(share, default_rate) for share in shares]
    ids, targets = (torch.from_numpy(np.ascontiguousarray(array)) for array in (inputs, labels))
    return Interval(row, state.cursor, ids, targets, slots, rates, cost)


def left_out(settings: Hyperparameters) -> tuple[Rule, ...]:
    """By which rules sequences are left out."""
    rules: dict[Rule, bool] = {"duplicates": settings.without_duplicates, "broken": settings.without_broken}
    return tuple(rule for rule, on in rules.items() if on)


def tally(
    state: State,
    interval: Interval,
    losses: NDArray[np.float64],
    norms: NDArray[np.float64],
    clip: float = CLIP_NORM,
) -> None:
    """Charge the steps that were taken, move the cursor on, and sum up what they measured.

    Args:
        state: The row's; it has diverged at the first step whose loss or norm is not finite, and stopped there.
        interval: What it was to do.
        losses: Reported loss of each sequence, [steps, B].
        norms: Norm of each gradient before clipping, [steps].
        clip: Norm that they are clipped to.
    """
    sums = state.interval
    sound = np.isfinite(losses).all(1) & np.isfinite(norms)
    updates = len(sound) if sound.all() else int(sound.argmin())
    taken = min(len(sound), updates + 1)
    state.diverged |= updates < taken
    state.cursor += taken
    state.charge(taken * interval.cost)
    sums.steps += updates
    state.averaged_steps += updates
    losses, norms, slots = losses[:updates], norms[:updates], interval.slots[:updates]
    sums.loss += float(losses.mean(1).sum())
    sums.norm += float(norms.sum())
    sums.clipped += int((norms > clip).sum())
    for slot in range(3):
        sums.source_loss[slot] += losses[slots == slot].sum()
        sums.source_count[slot] += (slots == slot).sum()
    if updates:
        sums.learning_rate = interval.rates[updates - 1]


def cosine(a: Tensor, b: Tensor, vectors: Whole = WHOLE) -> Tensor:
    """Cosine of two vectors, -1 to 1; 0 where one of them is zero."""
    scale = vectors.norm(a) * vectors.norm(b)
    return torch.where(scale > 0, vectors.dot(a, b) / scale, 0.0)


def sampled(row: Tensor) -> Tensor:
    """Numbers of a row [P], cache lines spread evenly, all of a small one: enough for a norm's ratio or an angle."""
    size = EVERY * ALIGNED
    return row if len(row) < SAMPLED_FROM else row[: len(row) // size * size].view(-1, size)[:, :ALIGNED].flatten()


def update_ratio(before: Tensor, after: Tensor, counted: Tensor, vectors: Whole = WHOLE) -> float:
    """Norm of a change of weights [D] over the norm of the weights; 0 where it is not finite.

    Args:
        before: The weights before.
        after: And after.
        counted: 1 where a weight counts, else 0.
        vectors: Norms of such vectors.
    """
    change, scale = vectors.norm((after - before) * counted).item(), vectors.norm(after * counted).item()
    ratio = change / scale if scale > 0 else 0.0
    return ratio if math.isfinite(ratio) else 0.0
