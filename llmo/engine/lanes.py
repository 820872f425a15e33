"""Lanes: rows in training, packed side by side.

A row comes in with its next interval, trains, and goes back; the next waiting row takes its lane, so that intervals of
different length leave no bubble. One lane trains in place, several train on copies that lie next to each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmo.engine.intervals import Interval, cosine, tally, update_ratio
from llmo.engine.optimizer import Moments
from llmo.engine.rows import Rows
from llmo.engine.state import State


@dataclass
class Lane:
    """One row in training.

    Attributes:
        state: The row's.
        interval: What it is to do.
        before: Its effective weights at the start, [P].
        step: Optimizer steps done.
        losses: Reported losses of the steps, each [B].
        norms: Gradient norms of the steps, each a scalar.
        previous: The gradient before the last.
        cosines: Of the last gradient with the first moments, and with the one before; None until then.
    """

    state: State
    interval: Interval
    before: Tensor
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    previous: Tensor | None = None
    cosines: list[Tensor] = field(default_factory=list)

    @property
    def cursor(self) -> int:
        """Data cursor of the next batch."""
        return self.interval.first + self.step

    def look(self, gradient: Tensor, first: Tensor) -> None:
        """Note how the last gradient [D] agrees with the first moments [D] before it and with the gradient before."""
        left = self.interval.steps - 1 - self.step
        if left == 1:
            self.previous = gradient.clone()
        elif left == 0:
            self.cosines = [cosine(gradient, other) for other in (first, self.previous) if other is not None]


class Lanes:
    """The lanes of one kind of row: what a row trains is its own, all weights or LoRA factors on them.

    Args:
        rows: Where rows come from and go back to.
        adapter: Which kind.
        count: Lanes, at least 1.

    Attributes:
        active: The rows in training, n; the first n rows of the tensors are theirs.
        moments: What is trained, [count, D].
        averaged: Running averages, [count, P].
        frozen: Weights under the factors, [count, P]; None where all weights are trained.
        alive: Which lanes have not diverged, bool [count].
    """

    def __init__(self, rows: Rows, adapter: bool, count: int) -> None:
        self._rows, self._source = rows, rows.lora if adapter else rows.full
        self._in_place = count == 1
        self.active: list[Lane] = []
        self.alive = torch.ones(count, dtype=torch.bool, device=rows.buffer.device)
        self.moments = self._source.part(slice(count))
        self.averaged = rows.averaged[:count]
        self.frozen = rows.full.values[:count] if adapter else None
        if not self._in_place:
            self.moments = Moments(*(torch.zeros_like(part) for part in vars(self.moments).values()))
            self.averaged = torch.zeros_like(self.averaged)
            self.frozen = None if self.frozen is None else torch.zeros_like(self.frozen)

    def add(self, lane: Lane) -> None:
        """Take a row in, behind the others."""
        self._put(len(self.active), lane.interval.row)
        self.active.append(lane)

    def replace(self, place: int, lane: Lane) -> None:
        """Take a row in where one has just gone out."""
        self._put(place, lane.interval.row)
        self.active[place] = lane

    def _put(self, place: int, row: int) -> None:
        self.alive[place] = True
        if self._in_place:
            here = slice(row, row + 1)
            self.moments, self.averaged = self._source.part(here), self._rows.averaged[here]
            self.frozen = None if self.frozen is None else self._rows.full.values[here]
            return
        self.moments.copy_row(place, self._source, row)
        self.averaged[place] = self._rows.averaged[row]
        if self.frozen is not None:
            self.frozen[place] = self._rows.full.values[row]

    def advance(self, sound: Tensor) -> list[int]:
        """Count one step of every lane, sound or not, bool [n]; the places of those that have ended with it.

        Where asking would hold the device up, a diverged row is only noticed at the end of its interval; until then its
        weights stay as they are.
        """
        here = self.alive[: len(self.active)]
        here &= sound
        ends = [False] * len(self.active) if here.device.type != "cpu" else [not good for good in here.tolist()]
        for place, lane in enumerate(self.active):
            lane.step += 1
            ends[place] |= lane.step == lane.interval.steps
        return [place for place, end in enumerate(ends) if end]

    def take_out(self, place: int, after: Tensor) -> None:
        """Send a row back and close its interval; its effective weights [P] have become `after`."""
        lane, row = self.active[place], self.active[place].interval.row
        if not self._in_place:
            self._source.copy_row(row, self.moments, place)
            self._rows.averaged[row] = self.averaged[place]
        losses, norms = torch.stack(lane.losses), torch.stack(lane.norms)
        tally(lane.state, lane.interval, losses.double().cpu().numpy(), norms.double().cpu().numpy())
        sums = lane.state.interval
        sums.update_ratio = update_ratio(lane.before, after)
        if not lane.state.diverged:
            sums.momentum_cosine, *rest = [value.item() for value in lane.cosines]
            sums.gradient_cosine = rest[0] if rest else 0.0

    def close_gap(self, place: int) -> None:
        """Nobody waits for a lane: the last one moves there."""
        last = len(self.active) - 1
        if place != last:
            self.moments.copy_row(place, self.moments, last)
            self.averaged[place] = self.averaged[last]
            if self.frozen is not None:
                self.frozen[place] = self.frozen[last]
            self.alive[place] = self.alive[last]
            self.active[place] = self.active[last]
        self.active.pop()
