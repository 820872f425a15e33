"""Which sequences replicas train on: source mixing and windows, by counter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmo.engine.streams import REPLAY, SOURCE, WINDOW, uniform
from llmo.hyperparameters import Mixing
from llmo.tasks.task import Task

FLOOR = 0.05
"""Least weight of a source in any mixture."""
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
    task: Task,
    seeds: Seeds,
    steps: Steps,
    batch: int,
    mixture: NDArray[np.float64],
    roles: NDArray[np.int64],
    replay: float = 0.0,
    old: Sequence[Sequence[int]] = (),
    places: Sequence[NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Training batches of one replica.

    Args:
        task: Where the sequences come from.
        seeds: The replica's seed, once for each batch, [S].
        steps: Data cursors of the batches, [S].
        batch: B, sequences in each batch.
        mixture: Weights of the three slots, [3].
        roles: Which material each slot holds at each step, [S, 3].
        replay: Share of the sequences that come from materials which no slot holds any more.
        old: Those materials at each step, [S].
        places: Of each material, where sequences may be drawn from; None for anywhere.

    Returns:
        Token ids [S, B, T], labels [S, B, P] and the slot of each sequence [S, B]: -1 for one that is replayed.
    """
    u = uniform(seeds, steps, SOURCE, batch)
    slots = (u[:, :, None] >= np.cumsum(mixture[:2])).sum(-1)
    materials = np.take_along_axis(roles, slots, axis=1)
    if replay and any(old):
        u = uniform(seeds, steps, REPLAY, batch)
        for step, known in enumerate(old):
            (again,) = np.nonzero(u[step] < (replay if known else 0.0))
            # Below the share, the number says which of them.
            materials[step, again] = [known[int(x / replay * len(known))] for x in u[step, again]]
            slots[step, again] = -1
    where = uniform(seeds, steps, WINDOW, batch)
    # Tasks of plug-ins may draw from anywhere only.
    given = () if places is None else (places,)
    inputs, labels = task.draw(materials.reshape(-1), where.reshape(-1), *given)
    return inputs.reshape(len(steps), batch, -1), labels.reshape(len(steps), batch, -1), slots
