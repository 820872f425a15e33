"""What turns gradients into updates where it is not AdamW: SGD with momentum, Lion, schedule-free AdamW.

All keep their memory in the moments of a row, so that snapshots and roll-backs hold for them too: SGD and Lion theirs
in the first, schedule-free AdamW its fast sequence z in the first and the second moment where AdamW has it. Their
weight decay is decoupled (Loshchilov and Hutter 2019).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llmo.engine.optimizer import EPSILON, Moments, Settings
from llmo.engine.pieces import Pieces
from llmo.hyperparameters import Optimizer

Update = Callable[[list[Tensor], Tensor, float, float, tuple[float, float], float], None]
"""Changes values, first and second moments, each [D], by a gradient [D], at a rate, decay, betas and step count."""


def sgd(parts: list[Tensor], gradient: Tensor, rate: float, decay: float, betas: tuple[float, float], _: float) -> None:
    """Momentum that adds gradients up, as `torch.optim.SGD` does (Polyak 1964)."""
    values, first, _second = parts
    first.mul_(betas[0]).add_(gradient)
    values.mul_(1 - rate * decay).add_(first, alpha=-rate)


def lion(
    parts: list[Tensor], gradient: Tensor, rate: float, decay: float, betas: tuple[float, float], _: float
) -> None:
    """The sign of momentum and gradient mixed (Chen et al. 2023, "Symbolic discovery of optimization algorithms")."""
    values, first, _second = parts
    direction = torch.lerp(gradient, first, betas[0]).sign_()
    values.mul_(1 - rate * decay).add_(direction, alpha=-rate)
    # Its second beta is for this one moment; the paper's default for language models is 0.98 for 0.95.
    first.lerp_(gradient, (1 - betas[0]) / 2)


def schedule_free(
    parts: list[Tensor], gradient: Tensor, rate: float, decay: float, betas: tuple[float, float], steps: float
) -> None:
    """AdamW's step on z, of which the values x are the mean (Defazio et al. 2024, "The road less scheduled").

    The gradient is that at y, between both; see `halfway`.
    """
    x, z, second = parts
    y = torch.lerp(z, x, betas[0])
    second.lerp_(gradient * gradient, 1 - betas[1])
    scale = (second / (1 - betas[1] ** steps)).sqrt_().add_(EPSILON)
    z.sub_(gradient / scale + decay * y, alpha=rate)
    x.lerp_(z, 1 / steps)


def halfway(x: Tensor, z: Tensor, beta: float) -> Tensor:
    """Where schedule-free AdamW takes its gradients: y, between its values x and its fast sequence z."""
    return torch.lerp(z, x, beta)


UPDATES: dict[Optimizer, Update] = {"sgd": sgd, "lion": lion, "schedule_free": schedule_free}


def update_others(
    optimizers: list[Optimizer],
    moments: Moments,
    gradient: Tensor | Pieces,
    norms: Tensor,
    settings: Settings,
    sound: Tensor,
) -> None:
    """One update of each sound row whose optimizer is not AdamW, in place.

    Args:
        optimizers: Of n rows.
        moments: Of as many or more.
        gradient: [n, D].
        norms: Of the gradients, [n].
        settings: Of the step.
        sound: Whether each row is updated at all, bool [n].
    """
    for row, optimizer in enumerate(optimizers):
        if optimizer == "adamw" or not sound[row]:
            continue
        begin = settings.begin(row)
        parts = [getattr(moments, name)[row, begin:] for name in ("values", "first", "second")]
        moments.steps[row] += 1
        clipped = gradient[:][row, begin:] * (settings.clip(row) / norms[row]).clamp(max=1.0)
        rate, decay = settings.rates[row], settings.decays[row]
        UPDATES[optimizer](parts, clipped, rate, decay, settings.beta(row), float(moments.steps[row]))


def begin(moments: Moments, row: int, optimizer: Optimizer) -> None:
    """Forget what an optimizer remembers of a row, so that it can begin from its values as they are now."""
    moments.reset(row)
    if optimizer == "schedule_free":
        moments.first[row] = moments.values[row]


def momentum(optimizer: Optimizer, moments: Moments, row: int) -> Tensor:
    """The direction that an optimizer remembers, [D]: of schedule-free AdamW, from z to its mean."""
    first = moments.first[row]
    return moments.values[row] - first if optimizer == "schedule_free" else first
