"""AdamW on rows: every replica its own rate, decay and step count; clipped by the norm of its own gradient.

On a CPU each row goes through torch's fused kernel. Elsewhere, and where the program is compiled, all rows go through
one expression, which asks nothing of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from llmo.engine.pieces import Pieces
from llmo.engine.vectors import WHOLE, Whole

CLIP_NORM = 1.0
BETAS = (0.9, 0.95)
EPSILON = 1e-8
AVERAGE_EVERY = 8
"""Most optimizer steps between two looks of a running average: each look reads and writes as much as an update."""


@dataclass(frozen=True)
class Moments:
    """What is trained and AdamW's memory of it, in n rows.

    Attributes:
        values: What is trained, [n, D].
        first: First moments, [n, D].
        second: Second moments, [n, D].
        steps: Optimizer steps taken, [n], float32.
    """

    values: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    @cached_property
    def rows(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Each row's values, moments and step count: making such views at every step costs as much as the kernel."""
        return list(zip(self.values, self.first, self.second, self.steps, strict=True))

    @cached_property
    def pieces(self) -> dict[int, list[list[Tensor]]]:
        """Views of rows in the pieces of a gradient, for the rows that had one."""
        return {}

    def part(self, rows: slice) -> Moments:
        """Views of some of the rows."""
        return Moments(self.values[rows], self.first[rows], self.second[rows], self.steps[rows])

    @classmethod
    def zeros(cls, rows: int, width: int, device: torch.device) -> Moments:
        """Rows of zeros, [rows, width]."""
        first, second, third = (torch.zeros(rows, width, device=device) for _ in range(3))
        return cls(first, second, third, torch.zeros(rows, device=device))

    def copy_row(self, row: int, source: Moments, place: int) -> None:
        """Overwrite a row with one of other moments."""
        for name in _PARTS:
            getattr(self, name)[row] = getattr(source, name)[place]

    def reset(self, row: int) -> None:
        """Forget a row's moments and step count."""
        self.first[row], self.second[row], self.steps[row] = 0, 0, 0


_PARTS = tuple(field.name for field in fields(Moments))


def row_norms(gradient: Tensor | Pieces, vectors: Whole = WHOLE) -> Tensor:
    """Norms of rows [n, D], [n]."""
    if isinstance(gradient, Pieces):
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient.pieces)))[None]
    if gradient.device.type != "cpu" and vectors is WHOLE:
        return torch.linalg.vector_norm(gradient, dim=1)
    # One row at a time: a reduction over all of them may add in another order when there is only one.
    return torch.stack([vectors.norm(row) for row in gradient])


@dataclass(frozen=True)
class Settings:
    """What one optimizer step of n rows is set to.

    Attributes:
        rates: Learning rates, [n].
        decays: Decoupled weight decays, [n].
        memory: How much of the current weights the running averages take in, each in [0, 1], [n].
        betas: Decays of the two moments, [n] pairs; None for `BETAS` in every row.
        clips: Norms that gradients are clipped to, [n]; None for `CLIP_NORM`.
        first: Where in its row each row's trained weights begin, [n]; None for 0: what lies before is left as it is.
    """

    rates: list[float]
    decays: list[float]
    memory: list[float]
    betas: list[tuple[float, float]] | None = None
    clips: list[float] | None = None
    first: list[int] | None = None

    def beta(self, row: int) -> tuple[float, float]:
        """Decays of a row's moments."""
        return BETAS if self.betas is None else self.betas[row]

    def clip(self, row: int) -> float:
        """Norm that a row's gradient is clipped to."""
        return CLIP_NORM if self.clips is None else self.clips[row]

    def begin(self, row: int) -> int:
        """Where a row's trained weights begin."""
        return 0 if self.first is None else self.first[row]


def averaging(step: int, interval: int) -> float:
    """How much of the weights a running average over about two intervals takes in: some at every eighth step or so.

    An interval has evenly spaced looks, the last one at its last step; it leaves 1/2 to 0.61 of what was there before.

    Args:
        step: Of the interval, from 0.
        interval: Optimizer steps in one.
    """
    looks = -(-interval // AVERAGE_EVERY)
    return 1 / (2 * looks) if (step + 1) * looks % interval < looks else 0.0


def average(averaged: Tensor, effective: Tensor, settings: Settings, sound: Tensor) -> None:
    """Take the weights that a batch has seen, [n, P], into the running averages of the sound rows, in place."""
    if averaged.device.type == "cpu":
        for row, (memory, good) in enumerate(zip(settings.memory, sound.tolist(), strict=True)):
            if good and memory:
                averaged[row].lerp_(effective[row], memory)
    else:
        memories = torch.tensor(settings.memory, device=averaged.device)[:, None]
        averaged.copy_(torch.where(sound[:, None], averaged.lerp(effective, memories), averaged))


def update_each(moments: Moments, gradient: Tensor | Pieces, norms: Tensor, settings: Settings, sound: Tensor) -> None:
    """One update of each sound row, in place, with torch's fused kernel.

    Args:
        moments: Of n rows or more.
        gradient: [n, D]; scaled in place where it is clipped.
        norms: Of the gradients, [n].
        settings: Of the step.
        sound: Whether each row is updated at all, bool [n].
    """
    flags = zip(norms.tolist(), settings.rates, settings.decays, sound.tolist(), strict=True)
    for row, (norm, rate, decay, good) in enumerate(flags):
        if not good:
            continue
        *parts, steps = moments.rows[row]
        steps += 1
        if isinstance(gradient, Pieces):
            if row not in moments.pieces:
                moments.pieces[row] = [gradient.views(part) for part in parts]
            gradients, (values, first, second) = gradient.pieces, moments.pieces[row]
        else:
            gradients, (values, first, second) = [gradient[row]], ([part] for part in parts)
        if begin := settings.begin(row):
            whole = values, first, second, gradients
            values, first, second, gradients = (_from(tensors, begin) for tensors in whole)
        clip, (beta1, beta2) = settings.clip(row), settings.beta(row)
        if norm > clip:
            torch._foreach_mul_(gradients, clip / norm)
        # What `torch.optim.AdamW(fused=True)` calls, without its bookkeeping, which costs more than the update.
        torch._fused_adamw_(
            values, gradients, first, second, [], [steps] * len(values),
            lr=rate, beta1=beta1, beta2=beta2, weight_decay=decay, eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip


def update_together(moments: Moments, gradient: Tensor, norms: Tensor, settings: Settings, sound: Tensor) -> None:
    """The same as `update_each` in one expression for all rows, which asks nothing of the host."""
    device = norms.device
    rates, decays = (torch.tensor(values, device=device)[:, None] for values in (settings.rates, settings.decays))
    clips: Tensor | float = CLIP_NORM
    betas: Sequence[Tensor | float] = BETAS
    # Where all rows have the usual values, nothing goes from the host to the device.
    if settings.clips is not None:
        clips = torch.tensor(settings.clips, device=device)
    if settings.betas is not None:
        betas = [torch.tensor(beta, device=device)[:, None] for beta in zip(*settings.betas, strict=True)]
    keep = sound[:, None]
    if settings.first is not None:
        begins = torch.tensor(settings.first, device=device)[:, None]
        keep = keep & (torch.arange(gradient.shape[1], device=device) >= begins)
    gradient = torch.where(keep, gradient * (clips / norms).clamp(max=1.0)[:, None], 0.0)
    moments.steps.add_(sound)
    corrections = [1 - beta ** moments.steps.clamp(min=1)[:, None] for beta in betas]
    first = torch.lerp(moments.first, gradient, 1 - betas[0])
    second = torch.lerp(moments.second, gradient * gradient, 1 - betas[1])
    step = (rates / corrections[0]) * first / ((second / corrections[1]).sqrt() + EPSILON)
    moments.values.copy_(torch.where(keep, moments.values * (1 - rates * decays) - step, moments.values))
    moments.first.copy_(torch.where(keep, first, moments.first))
    moments.second.copy_(torch.where(keep, second, moments.second))


def _from(pieces: list[Tensor], begin: int) -> list[Tensor]:
    """What lies from one place on, of pieces that follow each other."""
    left = []
    for piece in pieces:
        if begin < piece.numel():
            left.append(piece.view(-1)[begin:] if begin else piece)
        begin = max(0, begin - piece.numel())
    return left
