"""Which sequences replicas train on: source mixing, windows, and corruption of the inputs, all by counter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.engine.streams import NOISE, NOISE_TOKEN, SOURCE, SPAN, WINDOW, uniform
from llmo.hyperparameters import Augmentation, Mixing
from llmo.kinds import PADDING
from llmo.tasks.task import Task

FLOOR = 0.05
"""Least weight of a source in any mixture."""
TOKEN_NOISE = 0.1
SPAN_SHARE = 0.15
TRACKING_TEMPERATURE = 0.2
TRACKING_MEMORY = 0.5

Seeds = NDArray[np.uint64]
Steps = NDArray[np.int64]


def fixed_mixture(mixing: Mixing) -> NDArray[np.float64]:
    """Weights of the three sources for every mode but tracking, which starts uniform."""
    weights = np.full(3, 1 / 3)
    if mixing.startswith("source_"):
        weights[:] = FLOOR
        weights[int(mixing[-1]) - 1] = 1 - 2 * FLOOR
    return weights


def tracking_mixture(
    mixture: NDArray[np.float64], source_loss: NDArray[np.float64], validation_loss: float
) -> NDArray[np.float64]:
    """Move the mixture towards the sources whose loss is nearest to the validation loss.

    Args:
        mixture: Weights so far, [3].
        source_loss: Last known training loss of each source, [3]; NaN counts as equal to validation.
        validation_loss: Mean validation loss.
    """
    distance = np.nan_to_num(np.abs(source_loss - validation_loss), nan=0.0, posinf=50.0)
    scores = np.exp(-(distance - distance.min()) / TRACKING_TEMPERATURE)
    target = (1 - 3 * FLOOR) * scores / scores.sum() + FLOOR
    return TRACKING_MEMORY * mixture + (1 - TRACKING_MEMORY) * target


def draw_batches(
    task: Task, seeds: Seeds, steps: Steps, batch: int, mixture: NDArray[np.float64], roles: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Training batches of one replica.

    Args:
        task: Where the sequences come from.
        seeds: The replica's seed, once for each batch, [S].
        steps: Data cursors of the batches, [S].
        batch: B, sequences in each batch.
        mixture: Weights of the three slots, [3].
        roles: Which material each slot holds at each step, [S, 3].

    Returns:
        Token ids [S, B, T], labels [S, B, P] and the slot of each sequence [S, B].
    """
    u = uniform(seeds, steps, SOURCE, batch)
    slots = (u[:, :, None] >= np.cumsum(mixture[:2])).sum(-1)
    materials = np.take_along_axis(roles, slots, axis=1)
    where = uniform(seeds, steps, WINDOW, batch)
    inputs, labels = task.draw(materials.reshape(-1), where.reshape(-1))
    return inputs.reshape(len(steps), batch, -1), labels.reshape(len(steps), batch, -1), slots


def corrupt(
    inputs: NDArray[np.int64], augmentation: Augmentation, seeds: Seeds, steps: Steps, vocabulary: int
) -> NDArray[np.int64]:
    """Inputs of n batches with the same augmentation, corrupted.

    Args:
        inputs: Token ids [n, B, T].
        augmentation: How.
        seeds: The replica's seed of each, [n].
        steps: Its data cursor, [n].
        vocabulary: Number of token ids.
    """
    if augmentation == "off":
        return inputs
    _, batch, tokens = inputs.shape
    if augmentation == "token_noise":
        hit = uniform(seeds, steps, NOISE, batch * tokens) < TOKEN_NOISE
        other = (uniform(seeds, steps, NOISE_TOKEN, batch * tokens) * vocabulary).astype(np.int64)
        return np.where(hit.reshape(inputs.shape) & (inputs != PADDING), other.reshape(inputs.shape), inputs)
    length = max(1, round(SPAN_SHARE * tokens))
    start = (uniform(seeds, steps, SPAN, batch) * (tokens - length + 1)).astype(np.int64)
    place = np.arange(tokens) - start[:, :, None]
    return np.where((place >= 0) & (place < length) & (inputs != PADDING), 0, inputs)
