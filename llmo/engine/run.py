"""`Run`: training in progress, with a leading replica axis. One replica is the ordinary case."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from llmo.engine.adapters import adapter_gradient, merge
from llmo.engine.batches import tracking_mixture
from llmo.engine.choice import good_lanes
from llmo.engine.dropout import dropout_masks
from llmo.engine.executors import Batch
from llmo.engine.intervals import draw_interval, sampled
from llmo.engine.lanes import Lane, Lanes
from llmo.engine.measuring import measurement
from llmo.engine.optimizer import Settings, average, averaging, row_norms, update_each, update_together
from llmo.engine.replicas import Replicas
from llmo.engine.scoring import score_in_passes
from llmo.measurement import Measurement

_EVALUATED_AT_ONCE = {"cpu": 4}
"""Rows in one validation pass: few where the cache is what limits, as many as there are elsewhere."""
_WHOLE = 64
"""Sequences up to which a row's validation examples are looked at in one pass."""


class Run(Replicas):
    """N replicas of one model in training; see `Replicas` for the arguments."""

    _lanes: Lanes | None = None

    def train(self, rows: Sequence[int]) -> None:
        """Train each row for its affordable steps. Rows may differ in how many; a diverged row stops at once."""
        steps = {row: self.affordable_steps(row) for row in rows if not self.states[row].diverged}
        # The longest first, so that the last ones leave few lanes empty.
        waiting = deque(sorted((row for row in steps if steps[row]), key=lambda row: -steps[row]))
        if not waiting:
            return
        problem = self.states[waiting[0]].problem
        best = self.executor.lanes or good_lanes(self.parameters, problem.batch * problem.task.tokens)
        # What limits the lanes on a CPU is its cache.
        count = len(waiting) if best > 1 and self.device.type != "cpu" else min(len(waiting), best)
        lanes = self._lanes_for(count)
        for _ in range(count):
            lanes.add(self._lane(waiting.popleft(), steps))
        while lanes.active:
            ended = self._step(lanes)
            if not ended:
                continue
            after = self._effective(lanes)
            # From the last to the first: closing a gap moves a lane that goes on.
            for place in reversed(ended):
                lanes.take_out(place, after[place])
                if waiting:
                    lanes.replace(place, self._lane(waiting.popleft(), steps))
                else:
                    lanes.close_gap(place)

    def _lanes_for(self, count: int) -> Lanes:
        """Empty lanes, at least some; what several have needed is kept, as new memory is slow at first."""
        if count == 1:
            return Lanes(self.rows, self.layout, 1)
        if self._lanes is None or self._lanes.count < count:
            self._lanes = Lanes(self.rows, self.layout, count)
        self._lanes.active.clear()
        return self._lanes

    def _lane(self, row: int, steps: dict[int, int]) -> Lane:
        """A row with its next interval."""
        state, vocabulary = self.states[row], self.config.vocab_size
        interval = draw_interval(row, state, steps[row], self.step_cost(row), self.default_rate(row), vocabulary)
        before = sampled(self.effective([row])[0]).clone()
        own = self.has_own_adapter(row)
        return Lane(state, interval.to(self.device), before, self._counted, own, self.layout.vectors)

    def _effective(self, lanes: Lanes) -> Tensor:
        """What the executor runs on, [n, P]: what is trained, or weights with the factors merged in."""
        weights = lanes.full.values[: len(lanes.active)]
        own = [place for place, lane in enumerate(lanes.active) if lane.adapter]
        if own:
            weights = weights.clone()
            weights[own] = merge(self.layout, weights[own], lanes.lora.values[own])
        return weights

    def _step(self, lanes: Lanes) -> list[int]:
        """One optimizer step of every lane; the places of those whose interval has ended."""
        active, n = lanes.active, slice(len(lanes.active))
        states = [lane.state for lane in active]
        inputs = torch.stack([lane.interval.inputs[lane.step] for lane in active])
        labels = torch.stack([lane.interval.labels[lane.step] for lane in active])
        effective = self._effective(lanes)
        task, positions = states[0].problem.task, labels.shape[-1]
        soft = self._soft_targets(active, lanes.averaged[n], inputs, positions)
        scale = None
        if task.padded:
            counts = task.counts(labels)
            scale = labels[0].numel() / counts.sum(1).clamp(min=1)
        batch = Batch(inputs, labels, type(task).loss, self._dropout(active, inputs, positions), *soft, scale)
        losses, gradient = self._passes.gradient(effective, batch)
        if task.padded:
            losses = losses * (positions / counts.clamp(min=1))
        settings = Settings(
            [lane.interval.rates[lane.step] for lane in active],
            [state.hyperparameters.weight_decay for state in states],
            [averaging(lane.step, lane.state.problem.interval) for lane in active],
        )
        update: Callable[..., None] = update_each
        full, lora = lanes.full, lanes.lora
        if self.device.type != "cpu":
            update, gradient, full, lora = update_together, gradient[:], full.part(n), lora.part(n)
        vectors = self.layout.vectors
        norms = row_norms(gradient, vectors)
        own = [place for place, lane in enumerate(active) if lane.adapter]
        if own:
            factors = torch.zeros_like(lanes.lora.values[n])
            factors[own] = vectors.total(adapter_gradient(self.layout, gradient[own], lanes.lora.values[own]))
            norms[own] = row_norms(factors[own])
        # A sum is finite where all its terms are.
        sound = torch.isfinite(losses.sum(1) + norms) & lanes.alive[n]
        for place, lane in enumerate(active):
            trained, moments = (factors, lanes.lora) if lane.adapter else (gradient, lanes.full)
            lane.note(losses[place], norms[place])
            if lane.left <= 1:
                lane.compare(trained[place], moments.first[place])
        average(lanes.averaged[n], effective, settings, sound)
        if own:
            adapters = torch.tensor([lane.adapter for lane in active], device=sound.device)
            update(lora, factors, norms, settings, sound & adapters)
            update(full, gradient, norms, settings, sound & ~adapters)
        else:
            update(full, gradient, norms, settings, sound)
        return lanes.advance(sound)

    def _dropout(self, active: list[Lane], inputs: Tensor, positions: int) -> Tensor | None:
        """Dropout masks of the lanes' next step, [n, L, B, T, width]; None where no lane drops."""
        rates = np.array([lane.state.hyperparameters.dropout for lane in active])
        seeds = np.array([lane.state.problem.seed for lane in active], np.uint64)
        cursors = np.array([lane.cursor for lane in active])
        _, sequences, tokens = inputs.shape
        shape = (self.blocks, sequences, self.interface.hidden_tokens(tokens, positions), self.config.hidden_size)
        masks = dropout_masks(seeds, cursors, rates, shape)
        return None if masks is None else masks.to(self.device)

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        measurements = []
        size = _EVALUATED_AT_ONCE.get(self.device.type, max(1, len(rows)))
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            tasks = [self.states[row].problem.task for row in part]
            inputs = torch.stack([task.validation.inputs for task in tasks]).to(self.device)
            labels = torch.stack([task.validation.labels for task in tasks]).to(self.device)
            losses = self._score(part[0], self.effective(part), inputs, labels)
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
            self.rows[row].keep_best()
        if not sums.steps:
            sums.update_ratio = self._first_change(row)
        seen = sums.source_count > 0
        state.source_loss[seen] = sums.source_loss[seen] / sums.source_count[seen]
        if state.hyperparameters.mixing == "tracking" and sums.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.loss)
        return measurement(state, sums)

    def _first_change(self, row: int) -> float:
        """How much Adam's first step will change the matrices, relative to their norm; 0 where an adapter is trained.

        Every number moves by the rate then (Kingma and Ba 2015, section 2.1).
        """
        state, vectors = self.states[row], self.layout.vectors
        scale = vectors.norm(sampled(self.effective([row])[0]) * self._counted).item()
        if state.rank or not scale > 0:
            return 0.0
        return state.hyperparameters.learning_rate * vectors.norm(self._counted).item() / scale

    def _score(self, row: int, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean losses [n] of weights [n, P] on sequences [n, V, T], of the kind of task and batch that a row has."""
        problem = self.states[row].problem
        if self.parts == 1 and inputs.shape[1] <= _WHOLE:
            return problem.task.score(self.executor.logits(weights, inputs, labels.shape[-1]), labels)
        size = problem.batch // self.parts
        return score_in_passes(self.executor, problem.task, weights, inputs, labels, size, self.ranks)

    def test_loss(self, row: int) -> float:
        """Test loss of the delivered (best by validation) weights; for scoring only, and charged to nobody."""
        task = self.states[row].problem.task
        weights, size, total, count = self.delivered(row), len(task.validation.inputs), 0.0, 0
        for start in range(0, len(task.test.inputs), size):
            inputs, labels = (part[None, start : start + size].to(self.device) for part in vars(task.test).values())
            here = int(task.counts(labels).sum())
            total += self._score(row, weights, inputs, labels).item() * here
            count += here
        return total / count
