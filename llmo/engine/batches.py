"""Which sequences a replica trains on: source mixing, windows, and corruption of the inputs, all by counter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmo.engine.streams import NOISE, NOISE_TOKEN, SOURCE, SPAN, WINDOW, uniform
from llmo.hyperparameters import Augmentation, Mixing
from llmo.tasks.task import Task

FLOOR = 0.05
"""Least weight of a source in any mixture."""
TOKEN_NOISE = 0.1
SPAN_SHARE = 0.15
TRACKING_TEMPERATURE = 0.2
TRACKING_MEMORY = 0.5


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


def draw_batch(
    task: Task,
    seed: int,
    step: int,
    batch: int,
    mixture: NDArray[np.float64],
    roles: tuple[int, ...],
    augmentation: Augmentation,
    vocabulary: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """One training batch.

    Args:
        task: Where sequences come from.
        seed: The replica's seed.
        step: The replica's data cursor.
        batch: Sequences.
        mixture: Weights of the three slots.
        roles: Which material each slot holds at present.
        augmentation: How inputs are corrupted.
        vocabulary: Number of token ids.

    Returns:
        Inputs [B, T], labels [B, T] and the slot of each sequence [B].
    """
    seeds, steps = np.array([seed], np.uint64), np.array([step], np.int64)
    u = uniform(seeds, steps, SOURCE, batch)[0]
    slots = np.minimum(np.searchsorted(np.cumsum(mixture), u, side="right"), 2)
    sequences = task.draw(np.asarray(roles)[slots], uniform(seeds, steps, WINDOW, batch)[0])
    inputs, labels = sequences[:, :-1], sequences[:, 1:]
    if augmentation == "token_noise":
        hit = uniform(seeds, steps, NOISE, inputs.size).reshape(inputs.shape) < TOKEN_NOISE
        other = (uniform(seeds, steps, NOISE_TOKEN, inputs.size) * vocabulary).astype(np.int64)
        inputs = np.where(hit, other.reshape(inputs.shape), inputs)
    elif augmentation == "span_masking":
        length = max(1, round(SPAN_SHARE * inputs.shape[1]))
        start = (uniform(seeds, steps, SPAN, batch)[0] * (inputs.shape[1] - length + 1)).astype(np.int64)
        place = np.arange(inputs.shape[1])[None] - start[:, None]
        inputs = np.where((place >= 0) & (place < length), 0, inputs)
    return inputs, labels, slots
