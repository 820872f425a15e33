"""Lanes: rows in training, packed side by side.

A row comes in with its next interval, trains, and goes back; the next waiting row takes its lane, so that intervals of
different length leave no bubble. One lane trains in place, several train on copies that lie next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmo.engine.intervals import Interval, cosine, sampled, tally, update_ratio
from llmo.engine.layout import Layout
from llmo.engine.optimizer import Moments
from llmo.engine.rows import Row
from llmo.engine.state import State
from llmo.engine.vectors import WHOLE, Whole


@dataclass
class Lane:
    """One row in training.

    Attributes:
        state: The row's.
        interval: What it is to do.
        before: Some of its effective weights at the start; see `sampled`.
        counted: Which of them are of matrices: 1 or 0.
        adapter: Whether it trains LoRA factors on weights of its own.
        vectors: Norms and inner products of weights; factors are whole everywhere.
        step: Optimizer steps done.
        losses: Reported losses of the steps, each [B].
        norms: Gradient norms of the steps, each a scalar.
        taught: The teacher's probabilities [B, T, V] for the batches of some steps to come.
        previous: The gradient before the last.
        cosines: Of the last gradient with the first moments, and with the one before; None until then.
    """

    state: State
    interval: Interval
    before: Tensor
    counted: Tensor
    adapter: bool
    vectors: Whole
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    taught: dict[int, Tensor] = field(default_factory=dict)
    previous: Tensor | None = None
    cosines: list[Tensor] = field(default_factory=list)

    @property
    def cursor(self) -> int:
        """Data cursor of the next batch."""
        return self.interval.first + self.step

    @property
    def left(self) -> int:
        """Optimizer steps after the next one."""
        return self.interval.steps - 1 - self.step

    def note(self, losses: Tensor, norm: Tensor) -> None:
        """Note the reported loss of each sequence [B] and the gradient's norm, of the next step."""
        self.losses.append(losses)
        self.norms.append(norm)

    def compare(self, gradient: Tensor, first: Tensor) -> None:
        """Compare the last gradient [D] with the first moments [D] before it, and with the gradient before."""
        gradient, first = sampled(gradient), sampled(first)
        if self.left == 1:
            self.previous = gradient.clone()
        elif self.left == 0:
            vectors = WHOLE if self.adapter else self.vectors
            self.cosines = [cosine(gradient, other, vectors) for other in (first, self.previous) if other is not None]


class Lanes:
    """The rows in training.

    Args:
        rows: Where rows come from and go back to.
        layout: Of their tensors.
        count: Lanes, at least 1.

    Attributes:
        count: How many there are.
        active: The rows in training, n; the first n rows of the tensors are theirs.
        full: Weights and their moments, [count, P].
        lora: LoRA factors and their moments, [count, Q]; anything where a lane trains all weights.
        averaged: Running averages, [count, P].
        alive: Which lanes have not diverged, bool [count].
    """

    def __init__(self, rows: Sequence[Row], layout: Layout, count: int) -> None:
        self._rows, self.count, self._in_place = rows, count, count == 1
        self.active: list[Lane] = []
        device = rows[0].weights.device
        self.alive = torch.ones(count, dtype=torch.bool, device=device)
        # One lane trains on the row itself, see `_put`.
        places = 0 if self._in_place else count
        self.full = Moments.zeros(places, layout.width, device)
        self.lora = Moments.zeros(places, layout.adapter_width, device)
        self.averaged = torch.zeros(places, layout.width, device=device)

    def add(self, lane: Lane) -> None:
        """Take a row in, behind the others."""
        self.active.append(lane)
        self._put(len(self.active) - 1)

    def replace(self, place: int, lane: Lane) -> None:
        """Take a row in where one has just gone out."""
        self.active[place] = lane
        self._put(place)

    def _put(self, place: int) -> None:
        lane = self.active[place]
        row = self._rows[lane.interval.row]
        self.alive[place] = True
        if self._in_place:
            self.averaged = row.own_average()
            if lane.adapter:
                self.full, self.lora = row.full, row.own_lora()
            else:
                self.full = row.own_full()
            return
        self.full.copy_row(place, row.full, 0)
        self.averaged[place] = row.averaged
        if row.lora is not None:
            self.lora.copy_row(place, row.lora, 0)

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
        lane = self.active[place]
        if not self._in_place:
            full, lora = (None, self.lora) if lane.adapter else (self.full, None)
            self._rows[lane.interval.row].write(full, lora, self.averaged, place)
        losses, norms = torch.stack(lane.losses), torch.stack(lane.norms)
        tally(lane.state, lane.interval, losses.double().cpu().numpy(), norms.double().cpu().numpy())
        sums = lane.state.interval
        sums.update_ratio = update_ratio(lane.before, sampled(after), lane.counted, lane.vectors)
        if not lane.state.diverged:
            sums.momentum_cosine, *rest = [value.item() for value in lane.cosines]
            sums.gradient_cosine = rest[0] if rest else 0.0

    def close_gap(self, place: int) -> None:
        """Nobody waits for a lane: the last one moves there."""
        last = len(self.active) - 1
        if place != last:
            self.full.copy_row(place, self.full, last)
            if self.active[last].adapter:
                self.lora.copy_row(place, self.lora, last)
            self.averaged[place], self.alive[place] = self.averaged[last], self.alive[last]
            self.active[place] = self.active[last]
        self.active.pop()
