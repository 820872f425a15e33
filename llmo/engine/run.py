"""`Run`: training in progress, with a leading replica axis. One replica is the ordinary case."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llmo.engine.adapters import adapter_gradient, merge
from llmo.engine.batches import tracking_mixture
from llmo.engine.dropout import dropout_masks
from llmo.engine.executors import Batch
from llmo.engine.intervals import draw_interval
from llmo.engine.lanes import Lane, Lanes
from llmo.engine.measuring import measurement
from llmo.engine.optimizer import Settings, row_norms, update_each, update_together
from llmo.engine.replicas import Replicas
from llmo.measurement import Measurement

_EVALUATED_AT_ONCE = 4


class Run(Replicas):
    """N replicas of one model in training; see `Replicas` for the arguments."""

    def train(self, rows: Sequence[int]) -> None:
        """Train each row for its affordable steps. Rows may differ in how many; a diverged row stops at once."""
        steps = {row: self.affordable_steps(row) for row in rows if not self.states[row].diverged}
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for row in sorted((row for row in steps if steps[row]), key=lambda row: -steps[row]):
            distils = self.states[row].hyperparameters.distillation != "off"
            kinds.setdefault((self.has_own_adapter(row), distils), []).append(row)
        for (adapter, distils), group in kinds.items():
            waiting = deque(group)
            lanes = Lanes(self.rows, adapter, min(len(group), self.executor.lanes or len(group)))
            while waiting and len(lanes.active) < len(lanes.averaged):
                lanes.add(self._lane(waiting.popleft(), steps))
            while lanes.active:
                ended = self._step(lanes, distils)
                # From the last to the first: closing a gap moves a lane that goes on.
                for place in reversed(ended):
                    lanes.take_out(place, self._effective(lanes)[place])
                    if waiting:
                        lanes.replace(place, self._lane(waiting.popleft(), steps))
                    else:
                        lanes.close_gap(place)

    def _lane(self, row: int, steps: dict[int, int]) -> Lane:
        """A row with its next interval."""
        state, vocabulary = self.states[row], self.config.vocab_size
        interval = draw_interval(row, state, steps[row], self.step_cost(row), self.default_rate(row), vocabulary)
        return Lane(state, interval.to(self.device), self.effective([row])[0].clone())

    def _effective(self, lanes: Lanes) -> Tensor:
        """What the executor runs on: the trained values, or the weights with the factors merged in, [n, P]."""
        values = lanes.moments.values[: len(lanes.active)]
        if lanes.frozen is None:
            return values
        return merge(self.layout, lanes.frozen[: len(values)].clone(), values)

    def _step(self, lanes: Lanes, distils: bool) -> list[int]:
        """One optimizer step of every lane; the places of those whose interval has ended."""
        active, moments = lanes.active, lanes.moments.part(slice(len(lanes.active)))
        states = [lane.state for lane in active]
        inputs = torch.stack([lane.interval.inputs[lane.step] for lane in active])
        labels = torch.stack([lane.interval.labels[lane.step] for lane in active])
        effective = self._effective(lanes)
        soft = self._soft_targets(states, lanes.averaged[: len(active)], inputs) if distils else (None, None)
        loss = type(states[0].problem.task).loss
        batch = Batch(inputs, labels, loss, self._dropout(active, inputs), *soft)
        losses, gradient = self.executor.gradient(effective, batch)
        if lanes.frozen is not None:
            gradient = adapter_gradient(self.layout, gradient, moments.values)
        norms = row_norms(gradient)
        sound = torch.isfinite(losses).all(1) & torch.isfinite(norms) & lanes.alive[: len(active)]
        for place, lane in enumerate(active):
            lane.look(gradient[place], moments.first[place])
            lane.losses.append(losses[place])
            lane.norms.append(norms[place])
        settings = Settings(
            [lane.interval.rates[lane.step] for lane in active],
            [state.hyperparameters.weight_decay for state in states],
            [1 / max(2, 2 * state.problem.interval) for state in states],
        )
        update = update_each if self.device.type == "cpu" else update_together
        update(moments, lanes.averaged[: len(active)], effective, gradient, norms, settings, sound)
        return lanes.advance(sound)

    def _dropout(self, active: list[Lane], inputs: Tensor) -> Tensor | None:
        """Dropout masks of the lanes' next step, [n, L, B, T, width]; None where no lane drops."""
        rates = np.array([lane.state.hyperparameters.dropout for lane in active])
        seeds = np.array([lane.state.problem.seed for lane in active], np.uint64)
        cursors = np.array([lane.cursor for lane in active])
        shape = (self.blocks, *inputs.shape[1:], self.config.hidden_size)
        masks = dropout_masks(seeds, cursors, rates, shape)
        return None if masks is None else masks.to(self.device)

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        measurements = []
        for start in range(0, len(rows), _EVALUATED_AT_ONCE):
            part = list(rows[start : start + _EVALUATED_AT_ONCE])
            tasks = [self.states[row].problem.task for row in part]
            inputs = torch.stack([task.validation.inputs for task in tasks]).to(self.device)
            labels = torch.stack([task.validation.labels for task in tasks]).to(self.device)
            losses = tasks[0].score(self.executor.logits(self.effective(part), inputs), labels)
            for row, loss in zip(part, losses.tolist(), strict=True):
                self.states[row].charge(self.evaluation_cost(row))
                measurements.append(self._close(row, loss))
        return measurements

    def _close(self, row: int, loss: float) -> Measurement:
        """End a row's interval with a validation loss."""
        state = self.states[row]
        sums = state.interval
        state.interval = type(sums)()
        state.diverged |= not math.isfinite(loss)
        state.loss = math.inf if state.diverged else loss
        if state.loss < state.best_loss:
            state.best_loss = state.loss
            state.best_state = (state.hyperparameters, state.adapter, state.rank)
            self.rows.best[row] = self.rows.live[row]
        seen = sums.source_count > 0
        state.source_loss[seen] = sums.source_loss[seen] / sums.source_count[seen]
        if state.hyperparameters.mixing == "tracking" and sums.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.loss)
        return measurement(state, sums)

    def test_loss(self, row: int) -> float:
        """Test loss of the delivered (best by validation) weights; for scoring only, and charged to nobody."""
        task = self.states[row].problem.task
        weights, losses, size = self.delivered(row), [], len(task.validation.inputs)
        for start in range(0, len(task.test.inputs), size):
            inputs, labels = (part[None, start : start + size].to(self.device) for part in vars(task.test).values())
            losses.append(task.score(self.executor.logits(weights, inputs), labels).item() * inputs.shape[1])
        return sum(losses) / len(task.test.inputs)
