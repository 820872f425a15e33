"""`Run`: training in progress, with a leading replica axis. One replica is the ordinary case."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llmo.engine.adapter_kinds import kinds_gradient, merge_kinds
from llmo.engine.anchor import pull
from llmo.engine.batches import tracking_mixture
from llmo.engine.changes import Changes
from llmo.engine.choice import good_lanes
from llmo.engine.intervals import draw_interval, sampled
from llmo.engine.lanes import Lane, Lanes
from llmo.engine.measuring import measurement
from llmo.engine.optimizer import Settings, average, averaging, row_norms, update_each, update_together
from llmo.engine.other_optimizers import halfway, momentum, update_others
from llmo.engine.scoring import score_in_passes
from llmo.engine.soup import greedy_soup
from llmo.measurement import Measurement

_EVALUATED_AT_ONCE = {"cpu": 4}
"""Rows in one validation pass: few where the cache is what limits, as many as there are elsewhere."""
_WHOLE = 64
"""Sequences up to which a row's validation examples are looked at in one pass."""


class Run(Changes):
    """N replicas of one model in training; see `Replicas` for the arguments."""

    _lanes: Lanes | None = None

    def train(self, rows: Sequence[int]) -> None:
        """Train each row for its affordable steps. Rows may differ in how many; a diverged row stops at once."""
        steps = {row: self.affordable_steps(row) for row in rows if not self.states[row].diverged}
        programs: dict[tuple[bool, bool], list[int]] = {}
        for row in steps:
            if steps[row]:
                programs.setdefault(self.states[row].program, []).append(row)
        for together in programs.values():
            self._train(together, steps)

    def _train(self, rows: Sequence[int], steps: dict[int, int]) -> None:
        """Train rows that go through one program."""
        # The longest first, so that the last ones leave few lanes empty.
        waiting = deque(sorted(rows, key=lambda row: -steps[row]))
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
        state, own = self.states[row], self.has_own_adapter(row)
        interval = draw_interval(row, state, steps[row], self.step_cost(row), self.default_rate(row), self.words(row))
        before = sampled(self.effective([row])[0]).clone()
        best = self.delivered(row)[0] if state.hyperparameters.distillation in ("best", "ensemble") else None
        vectors, begin, decay = self.layout.vectors, self.first_trained(row), self.weight_decay(row)
        return Lane(state, interval.to(self.device), before, self._counted, own, vectors, begin, decay, best)

    def _effective(self, lanes: Lanes, training: bool = False) -> Tensor:
        """What the executor runs on, [n, P]: what is trained, or weights with an adapter of their own put in.

        Args:
            lanes: The rows.
            training: Whether for a gradient, which schedule-free AdamW takes beside its values.
        """
        weights = lanes.full.values[: len(lanes.active)]
        own = [place for place, lane in enumerate(lanes.active) if lane.adapter]
        between = [place for place, lane in enumerate(lanes.active) if training and lane.optimizer == "schedule_free"]
        if not own and not between:
            return weights
        weights, adapters = weights.clone(), lanes.lora.values[own]
        for place in between:
            lane = lanes.active[place]
            moments = lanes.lora if lane.adapter else lanes.full
            y = halfway(moments.values[place], moments.first[place], lane.betas[0])
            if lane.adapter:
                adapters[own.index(place)] = y
            else:
                weights[place] = y
        if own:
            kinds = [lanes.active[place].state.adapter for place in own]
            weights[own] = merge_kinds(self.layout, weights[own], adapters, kinds)
        return weights

    def _step(self, lanes: Lanes) -> list[int]:
        """One batch of every lane, and mostly an update; the places of those whose interval has ended."""
        active, n = lanes.active, slice(len(lanes.active))
        effective = self._effective(lanes, training=True)
        batch = self._next_batch(active, effective, lanes.averaged[n])
        losses, gradient = self._passes.gradient(effective, batch)
        task = active[0].state.problem.task
        if task.padded:
            losses = losses * (batch.positions / task.counts(batch.labels).clamp(min=1))
        rare = any(lane.rare for lane in active)
        update: Callable[..., None] = update_each
        full, lora = lanes.full, lanes.lora
        if self.device.type != "cpu":
            update, gradient, full, lora = update_together, gradient[:], full.part(n), lora.part(n)
        if rare:
            gradient = self._held(lanes, gradient[:])
        vectors = self.layout.vectors
        norms = row_norms(gradient, vectors)
        own = [place for place, lane in enumerate(active) if lane.adapter]
        factors = torch.empty(0)
        if own:
            factors = torch.zeros_like(lanes.lora.values[n])
            kinds = [active[place].state.adapter for place in own]
            found, widths = kinds_gradient(
                self.layout, gradient[own], lanes.full.values[own], lanes.lora.values[own], kinds
            )
            factors[own] = vectors.total(found)
            for place, width in zip(own, widths):
                norms[place] = row_norms(factors[place : place + 1, :width])[0]
        # A sum is finite where all its terms are.
        sound = torch.isfinite(losses.sum(1) + norms) & lanes.alive[n]
        for place, lane in enumerate(active):
            trained, moments = (factors, lanes.lora) if lane.adapter else (gradient, lanes.full)
            lane.note(losses[place], norms[place])
            if lane.left <= 1:
                lane.compare(trained[place], momentum(lane.optimizer, moments, place))
        ready = self._gathered(active, gradient[:], factors, norms, sound) if rare else sound
        settings = Settings(
            [lane.interval.rates[lane.step] for lane in active],
            [lane.decay for lane in active],
            [averaging(lane.step, lane.state.problem.interval) for lane in active],
            [lane.betas for lane in active],
            [lane.clip for lane in active],
            [lane.begin for lane in active] if rare else None,
        )
        average(lanes.averaged[n], effective, settings, sound)
        for adapter, (moments, given) in enumerate(((full, gradient), (lora, factors))):
            here = torch.tensor([lane.adapter == bool(adapter) for lane in active], device=sound.device)
            if adapter and not own:
                continue
            chosen = ready & here if own else ready
            if rare:
                plain = torch.tensor([lane.optimizer == "adamw" for lane in active], device=sound.device)
                others = [lane.optimizer for lane in active]
                update_others(others, moments, given, norms, settings, chosen & ~plain)
                chosen = chosen & plain
            update(moments, given, norms, settings, chosen)
        return lanes.advance(sound)

    def _held(self, lanes: Lanes, gradient: Tensor) -> Tensor:
        """Gradients [n, P] that pull anchored weights back and leave frozen ones where they are; changed in place."""
        for place, lane in enumerate(lanes.active):
            if lane.adapter:
                continue
            anchor = self.rows[lane.interval.row].anchored
            if lane.state.hyperparameters.anchored and anchor is not None:
                gradient[place] += pull(lanes.full.values[place], anchor)
            gradient[place, : lane.begin] = 0
        return gradient

    def _gathered(
        self, active: Sequence[Lane], gradient: Tensor, factors: Tensor, norms: Tensor, sound: Tensor
    ) -> Tensor:
        """Which rows are updated now, bool [n]; gradients and norms become those of all batches of an update."""
        ready = sound.clone()
        for place, lane in enumerate(active):
            if lane.together == 1:
                continue
            trained = factors if lane.adapter else gradient
            mean = lane.gather(trained[place])
            if mean is None:
                ready[place] = False
            else:
                trained[place] = mean
                norms[place] = row_norms(mean[None], self.layout.vectors)[0]
        return ready

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        measurements = []
        size = _EVALUATED_AT_ONCE.get(self.device.type, max(1, len(rows)))
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            tasks = [self.states[row].problem.task for row in part]
            inputs = torch.stack([task.validation.inputs for task in tasks]).to(self.device)
            labels = torch.stack([task.validation.labels for task in tasks]).to(self.device)
            weights, phases = self.effective(part), tasks[0].phases
            losses = [
                self._score(part[0], weights, ids, targets)
                for ids, targets in zip(inputs.chunk(phases, 1), labels.chunk(phases, 1), strict=True)
            ]
            for row, *apart in zip(part, *(loss.tolist() for loss in losses), strict=True):
                loss = sum(apart) / phases
                if phases > 1:
                    self.states[row].note_phases(apart)
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
        if state.collected and sums.steps and not state.diverged:
            self.collect(row)
        if state.hyperparameters.mixing == "tracking" and sums.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.loss)
        return measurement(state, sums)

    def soup_candidates(self, row: int) -> list[str]:
        """Names of what `load_soup` would mix with the best weights, by validation loss, the running average last."""
        state = self.states[row]
        if state.best_state is None or self.frozen or not self.mixes(row):
            return []
        losses = {name: saved[3] for name, saved in state.registers.items()}
        if state.loss > state.best_loss:
            losses["current"] = state.loss
        names = sorted(losses, key=lambda name: losses[name])
        return [*names, "averaged"] if state.averaged_steps >= state.problem.interval else names

    def can_pay_soup(self, row: int) -> bool:
        """Whether there is something to mix, and the budget pays for its validation passes and a step."""
        state, count = self.states[row], len(self.soup_candidates(row))
        price = (count + 1) * self.evaluation_cost(row) + self.step_cost(row)
        return count > 0 and price <= state.problem.budget - state.spent

    def load_soup(self, row: int) -> None:
        """Set the effective weights to a greedy soup of what is kept; an adapter stays on."""
        state, examples = self.states[row], self.states[row].problem.task.validation
        inputs, labels = examples.inputs[None].to(self.device), examples.labels[None].to(self.device)
        weights: dict[str, Callable[[], Tensor]] = {
            "current": lambda: self.effective([row])[0],
            "averaged": lambda: self.rows[row].averaged,
            **{name: partial(self.saved_weights, row, name) for name in state.registers},
        }

        def score(trial: Tensor) -> float:
            state.charge(self.evaluation_cost(row))
            return self._score(row, trial[None], inputs, labels).item()

        others = [weights[name]() for name in self.soup_candidates(row)]
        self._set_weights(row, greedy_soup(self.saved_weights(row, "best"), state.best_loss, others, score))

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
