"""Lanes: rows in training, packed side by side.

A row comes in with its next interval, trains, and goes back; the next waiting row takes its lane, so that intervals of
different length leave no bubble. One lane trains in place, several train on copies that lie next to each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.intervals import Interval, cosine, sampled, tally, update_ratio
from llmo.engine.layout import Layout
from llmo.engine.optimizer import Moments
from llmo.engine.rows import Row
from llmo.engine.state import State
from llmo.engine.vectors import WHOLE, Whole
from llmo.hyperparameters import Optimizer


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
        begin: Where its trained weights begin in a row; what lies before is frozen.
        decay: Decoupled weight decay, for the optimizer's rate.
        best: Effective weights of its best validation, [P]; None where nobody asks for them.
        larger: Those of the larger model that it is a student of, [P]; None where nobody asks for them.
        parts: Where the parts of a smaller model lie in its row, see `SmallerModels.parts`; None for a whole one.
        betas: Decays of the optimizer's moments.
        clip: Norm that gradients are clipped to.
        together: Batches whose gradients are averaged for one update.
        step: Optimizer steps done.
        losses: Reported losses of the steps, each [B].
        norms: Gradient norms of the steps, each a scalar.
        taught: The teacher's probabilities [B, T, V] for the batches of some steps to come.
        previous: The gradient before the last.
        cosines: Of the last gradient with the first moments, and with the one before; None until then.
        slots: Which slot each sequence came from that a step was trained on, [B]; empty where nothing is selected.
        sum: Mean gradient of the batches since the last update, in part; None right after one.
    """

    state: State
    interval: Interval
    before: Tensor
    counted: Tensor
    adapter: bool
    vectors: Whole
    begin: int = 0
    decay: float = 0.0
    best: Tensor | None = None
    larger: Tensor | None = None
    parts: tuple[Tensor, Tensor] | None = None
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    taught: dict[int, Tensor] = field(default_factory=dict)
    previous: Tensor | None = None
    cosines: list[Tensor] = field(default_factory=list)
    slots: list[NDArray[np.int64]] = field(default_factory=list)
    sum: Tensor | None = None
    betas: tuple[float, float] = field(init=False)
    clip: float = field(init=False)
    together: int = field(init=False)

    def __post_init__(self) -> None:
        settings = self.state.hyperparameters
        self.betas = settings.level("momentum"), settings.level("memory")
        self.clip, self.together = settings.level("clipping"), int(settings.level("accumulation"))
        if self.state.problem.privacy is not None:
            # Each sequence's gradient has been clipped already.
            self.clip = math.inf

    @property
    def optimizer(self) -> Optimizer:
        """What turns its gradients into updates."""
        return self.state.hyperparameters.optimizer

    @property
    def rare(self) -> bool:
        """Whether its gradients go another way than straight to AdamW."""
        settings = self.state.hyperparameters
        special = self.together > 1 or self.begin > 0 or settings.anchored or settings.sparsity > 0
        return special or settings.optimizer != "adamw"

    @property
    def unlike_drawn(self) -> bool:
        """Whether it may be trained on other inputs than its interval has drawn."""
        settings = self.state.hyperparameters
        return settings.selection != "off" or settings.perturbation == "swaps"

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

    def gather(self, gradient: Tensor) -> Tensor | None:
        """Take one batch's gradient [D] in; the mean of all that make an update where it is time for one."""
        first = self.step - self.step % self.together
        share = gradient / min(self.together, self.interval.steps - first)
        self.sum = share if self.sum is None else self.sum + share
        if (self.step + 1) % self.together and self.left:
            return None
        mean, self.sum = self.sum, None
        return mean

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
        interval = replace(lane.interval, slots=np.stack(lane.slots)) if lane.slots else lane.interval
        if lane.state.problem.privacy is not None:
            noise, taken = lane.state.hyperparameters.level("noise"), lane.state.private_steps
            taken[noise] = taken.get(noise, 0) + lane.step
        tally(lane.state, interval, losses.double().cpu().numpy(), norms.double().cpu().numpy(), lane.clip)
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
