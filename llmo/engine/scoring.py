"""Validation and test losses of a large model: in passes of a few sequences, and shared out over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.engine.executors import Executor
from llmo.engine.ranks import Ranks
from llmo.engine.smaller import Smaller
from llmo.tasks.task import Task


def score_in_passes(
    executor: Executor | Smaller,
    task: Task,
    rows: Tensor,
    inputs: Tensor,
    labels: Tensor,
    size: int,
    ranks: Ranks | None,
) -> Tensor:
    """What `Task.score` gives, within rounding, without all logits at once.

    Args:
        executor: Of the rows.
        task: Says how a prediction is scored.
        rows: [n, P].
        inputs: Token ids, [n, V, T].
        labels: [n, V, P].
        size: Sequences of each row in a pass, at least 1.
        ranks: Who shares the sequences; None for this process alone.

    Returns:
        [n], the same on all ranks.
    """
    sequences = inputs.shape[1]
    if ranks is not None:
        inputs, labels = ranks.share(inputs), ranks.share(labels)
    passes, counts = [], task.counts(labels).double()
    for ids, targets in zip(inputs.split(size, 1), labels.split(size, 1)):
        # Each sequence as a row of its own.
        logits = executor.logits(rows, ids, labels.shape[-1]).flatten(0, 1)[:, None]
        passes.append(task.score(logits, targets.flatten(0, 1)[:, None]).unflatten(0, (len(rows), -1)))
    losses = torch.cat(passes, 1)
    if ranks is not None:
        losses, counts = ranks.gather(losses), ranks.gather(counts)
    losses, counts = losses[:, :sequences], counts[:, :sequences]
    return (losses * counts).sum(1) / counts.sum(1)
