"""`Run`: training in progress, with a leading replica axis. One replica is the ordinary case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.adapters import adapter_gradient
from llmo.engine.batches import Seeds, Steps, corrupt, draw_batches, tracking_mixture
from llmo.engine.dropout import dropout_masks
from llmo.engine.measuring import GradientCosines, measurement, update_ratio
from llmo.engine.optimizer import CLIP_NORM, clip_rows
from llmo.engine.replicas import Replicas
from llmo.engine.state import State
from llmo.measurement import Measurement

_EVALUATED_AT_ONCE = 4


@dataclass(frozen=True)
class _Active:
    """The rows that take the next optimizer step together, and what stays the same for them through an interval."""

    rows: list[int]
    states: list[State]
    seeds: Seeds
    mixtures: NDArray[np.float64]
    dropout: NDArray[np.float64]
    costs: list[float]

    def places(self, adapter: bool) -> list[int]:
        """Places of the rows that train an adapter, or of those that train all weights."""
        return [place for place, state in enumerate(self.states) if (state.rank > 0) == adapter]


class Run(Replicas):
    """N replicas of one model shape in training; see `Replicas` for the arguments."""

    def train(self, rows: Sequence[int]) -> None:
        """Train each row for its affordable steps. Rows may differ in how many; a diverged row stops at once."""
        counts = {row: self.affordable_steps(row) for row in rows}
        cosines = GradientCosines(counts)
        before = self.effective(rows).clone()
        active = None
        for step in range(max(counts.values(), default=0)):
            going = [row for row in rows if counts[row] > step and not self.states[row].diverged]
            if not going:
                break
            if active is None or active.rows != going:
                active = self._active(going)
            self._step(active, step, cosines)
        for row, old, new in zip(rows, before, self.effective(rows), strict=True):
            self.states[row].interval.update_ratio = update_ratio(old, new)

    def _active(self, rows: list[int]) -> _Active:
        states = [self.states[row] for row in rows]
        return _Active(
            rows=rows,
            states=states,
            seeds=np.array([state.problem.seed for state in states], np.uint64),
            mixtures=np.stack([state.mixture for state in states]),
            dropout=np.array([state.hyperparameters.dropout for state in states]),
            costs=[self.step_cost(row) for row in rows],
        )

    def _step(self, active: _Active, step: int, cosines: GradientCosines) -> None:
        """One optimizer step of some rows, the `step`-th of the interval."""
        rows, states = active.rows, active.states
        task = states[0].problem.task
        cursors = np.array([state.cursor for state in states], np.int64)
        inputs, labels, slots = self._batches(active, cursors)
        weights = self.effective(rows)
        teacher, share = self._soft_targets(states, [self._averaged[row] for row in rows], inputs)
        masks = dropout_masks(
            active.seeds, cursors, active.dropout, (self._blocks, *inputs.shape[1:], self.shape.width)
        )
        losses, gradient = self.executor.gradient(
            weights, inputs, lambda logits: task.loss(logits, labels, teacher, share), masks
        )
        sound = torch.isfinite(losses).all(1).tolist()
        self._update(active, gradient, weights, sound, step, cosines)
        self._tally(active, losses.double().numpy(), slots)

    def _batches(self, active: _Active, cursors: Steps) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Inputs [n, B, T], labels [n, B, T] and slots [n, B] of the next training batch of each row."""
        states = active.states
        sequences, slots = draw_batches(
            [state.problem.task for state in states],
            active.seeds,
            cursors,
            states[0].problem.batch,
            active.mixtures,
            [state.roles for state in states],
        )
        inputs, labels = sequences[:, :, :-1].copy(), sequences[:, :, 1:].copy()
        kinds = [state.hyperparameters.augmentation for state in states]
        for kind in set(kinds) - {"off"}:
            places = [place for place, other in enumerate(kinds) if other == kind]
            inputs[places] = corrupt(
                inputs[places], kind, active.seeds[places], cursors[places], self.config.vocab_size
            )
        return torch.from_numpy(inputs), torch.from_numpy(labels), slots

    def _update(
        self, active: _Active, gradient: Tensor, weights: Tensor, sound: list[bool], step: int, cosines: GradientCosines
    ) -> None:
        """Clip, then average and AdamW on the rows that are still sound; the others have diverged."""
        for adapter, optimizer in ((False, self.optimizer), (True, self.adapter_optimizer)):
            places = active.places(adapter)
            if not places:
                continue
            part = gradient if len(places) == len(active.rows) else gradient[places]
            if adapter:
                part = adapter_gradient(self.layout, part, self.rows.adapters[[active.rows[i] for i in places]])
            for place, row_gradient, norm in zip(places, part, clip_rows(part), strict=True):
                row, state = active.rows[place], active.states[place]
                if not (sound[place] and math.isfinite(norm)):
                    state.diverged = True
                    continue
                interval = state.interval
                interval.steps += 1
                interval.norm += norm
                interval.clipped += norm > CLIP_NORM
                interval.learning_rate = self.learning_rate(row)
                cosines.look(row, step, row_gradient, optimizer.first(row), interval)
                # The average takes in the weights that the batch has seen; the update may change them in place.
                self._averaged[row].lerp_(weights[place], 1 / max(2, 2 * state.problem.interval))
                state.averaged_steps += 1
                optimizer.step(row, row_gradient, interval.learning_rate, state.hyperparameters.weight_decay)

    @staticmethod
    def _tally(active: _Active, losses: NDArray[np.float64], slots: NDArray[np.int64]) -> None:
        """Charge the step, move the cursors on, and sum the losses [n, B] up by the slots [n, B] they came from."""
        belongs = slots[:, :, None] == np.arange(3)
        counts = belongs.sum(1)
        # `where` and not a product: a diverged row's NaN stays out of the sums, and an Inf times 0 would be one.
        sums = np.where(belongs, losses[:, :, None], 0.0).sum(1)
        means = losses.mean(1).tolist()
        for place, (state, cost) in enumerate(zip(active.states, active.costs, strict=True)):
            state.cursor += 1
            state.charge(cost)
            if not state.diverged:
                state.interval.loss += means[place]
                state.interval.source_loss += sums[place]
                state.interval.source_count += counts[place]

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        measurements = []
        for start in range(0, len(rows), _EVALUATED_AT_ONCE):
            part = list(rows[start : start + _EVALUATED_AT_ONCE])
            tasks = [self.states[row].problem.task for row in part]
            inputs = torch.stack([task.validation.inputs for task in tasks])
            labels = torch.stack([task.validation.labels for task in tasks])
            losses = tasks[0].score(self.executor.logits(self.effective(part), inputs), labels)
            for row, loss in zip(part, losses.tolist(), strict=True):
                self.states[row].charge(self.evaluation_cost(row))
                measurements.append(self._close(row, loss))
        return measurements

    def _close(self, row: int, loss: float) -> Measurement:
        """End a row's interval with a validation loss."""
        state = self.states[row]
        interval = state.interval
        state.interval = type(interval)()
        state.diverged |= not math.isfinite(loss)
        state.loss = math.inf if state.diverged else loss
        if state.loss < state.best_loss:
            state.best_loss = state.loss
            state.best_state = (state.hyperparameters, state.adapter, state.rank)
            self.rows.best[row] = self.rows.live[row]
        seen = interval.source_count > 0
        state.source_loss[seen] = interval.source_loss[seen] / interval.source_count[seen]
        if state.hyperparameters.mixing == "tracking" and interval.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.loss)
        return measurement(state, interval)

    def test_loss(self, row: int) -> float:
        """Test loss of the delivered (best by validation) weights; for scoring only, and charged to nobody."""
        task = self.states[row].problem.task
        weights, losses = self.delivered(row), []
        for start in range(0, len(task.test.inputs), 64):
            inputs, labels = task.test.inputs[None, start : start + 64], task.test.labels[None, start : start + 64]
            losses.append(task.score(self.executor.logits(weights, inputs), labels).item() * inputs.shape[1])
        return sum(losses) / len(task.test.inputs)
