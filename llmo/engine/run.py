"""`Run`: training in progress, with a leading replica axis. One replica is the ordinary case."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmo.engine.adapter_kinds import kinds_gradient, merge_kinds
from llmo.engine.anchor import pull
from llmo.engine.choice import good_lanes
from llmo.engine.compressing import pruned
from llmo.engine.executors import Batch
from llmo.engine.intervals import draw_interval, sampled
from llmo.engine.lanes import Lane, Lanes
from llmo.engine.memory import Passes
from llmo.engine.optimizer import (
    BETAS,
    CLIP_NORM,
    Settings,
    average,
    averaging,
    row_norms,
    update_each,
    update_together,
)
from llmo.engine.other_optimizers import halfway, momentum, update_others
from llmo.engine.privacy import private_gradient
from llmo.engine.restructuring import Restructuring
from llmo.engine.smaller import Smaller
from llmo.engine.structure import WHOLE_MODEL
from llmo.engine.vectors import WHOLE


class Run(Restructuring):
    """N replicas of one model in training; see `Replicas` for the arguments."""

    _lanes: Lanes | None = None

    def train(self, rows: Sequence[int]) -> None:
        """Train each row for its affordable steps. Rows may differ in how many; a diverged row stops at once."""
        steps = {row: self.affordable_steps(row) for row in rows if not self.states[row].diverged}
        programs: dict[tuple[object, ...], list[int]] = {}
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
        price, rate, written = self.step_cost(row), self.default_rate(row), self.rows[row].kept("generated")
        interval = draw_interval(row, state, steps[row], price, rate, self.words(row), written)
        before = sampled(self.effective([row])[0]).clone()
        settings = state.hyperparameters
        wanted = settings.distillation in ("best", "ensemble") or settings.pseudo_labels
        best = self.saved_weights(row, "best").clone() if wanted else None
        vectors, begin, decay = self.layout.vectors, self.first_trained(row), self.weight_decay(row)
        larger = self.rows[row].kept("larger") if settings.distillation == "larger" else None
        parts = None if state.structure == WHOLE_MODEL else self._smaller.parts(state.structure)
        given = interval.to(self.device), before, self._counted, own, vectors, begin, decay, best, larger, parts
        return Lane(state, *given)

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
            for place in own:
                if lanes.active[place].parts is not None:
                    weights[place] *= self.present(lanes.active[place].state.structure)
        return weights

    def _step(self, lanes: Lanes) -> list[int]:
        """One batch of every lane, and mostly an update; the places of those whose interval has ended."""
        active, n = lanes.active, slice(len(lanes.active))
        effective = self._effective(lanes, training=True)
        batch = self._next_batch(active, effective, lanes.averaged[n])
        if active[0].state.problem.privacy is None:
            losses, gradient = self._passes_of(active).gradient(effective, batch)
        else:
            losses, gradient = self._private(active, effective, batch)
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
            [lane.betas for lane in active] if any(lane.betas != BETAS for lane in active) else None,
            [lane.clip for lane in active] if any(lane.clip != CLIP_NORM for lane in active) else None,
            [lane.begin for lane in active] if rare else None,
        )
        average(lanes.averaged[n], effective, settings, sound)
        empty = self._empty(lanes) if rare else {}
        optimizers = [lane.optimizer for lane in active]
        for adapter, (moments, given) in enumerate(((full, gradient), (lora, factors))):
            if adapter and not own:
                continue
            chosen = ready
            if own:
                here = torch.tensor([lane.adapter == bool(adapter) for lane in active], device=sound.device)
                chosen = ready & here
            if rare:
                plain = torch.tensor([name == "adamw" for name in optimizers], device=sound.device)
                update_others(optimizers, moments, given, norms, settings, chosen & ~plain)
                chosen = chosen & plain
            update(moments, given, norms, settings, chosen)
        for place, pruned_ones in empty.items():
            lanes.full.values[place].masked_fill_(pruned_ones, 0.0)
            if active[place].optimizer == "schedule_free":
                lanes.full.first[place].masked_fill_(pruned_ones, 0.0)
        return lanes.advance(sound)

    def _passes_of(self, active: Sequence[Lane]) -> Passes | Smaller:
        """What trains lanes whose structures are of one size."""
        parts = [lane.parts for lane in active if lane.parts is not None]
        return self._smaller(active[0].state.structure, parts) if parts else self._passes

    def _private(self, active: Sequence[Lane], effective: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Reported losses [n, B] and private gradients [n, P] of lanes."""
        found = []
        for place, lane in enumerate(active):
            settings, seed = lane.state.hyperparameters, lane.state.problem.seed
            rows = slice(place, place + 1)
            noise_seed = (seed * 1_000_003 + lane.cursor) % 2**63
            clip, noise = settings.level("clipping"), settings.level("noise")
            found.append(
                private_gradient(
                    self._next_batch.rare, effective[rows], batch.rows(rows), clip, noise, noise_seed, lane.begin
                )
            )
        losses, gradients = (torch.cat(parts) for parts in zip(*found, strict=True))
        # Noise would make virtual tokens of the room for them.
        gradients[:, self.layout.virtual :] = 0
        return losses, gradients

    def _empty(self, lanes: Lanes) -> dict[int, Tensor]:
        """Which weights of lanes that train all of them have been pruned, bool [P], by place."""
        sparse = [
            place for place, lane in enumerate(lanes.active) if lane.state.hyperparameters.sparsity and not lane.adapter
        ]
        return {place: pruned(lanes.full.values[place], self._matrices) for place in sparse}

    def _held(self, lanes: Lanes, gradient: Tensor) -> Tensor:
        """Gradients [n, P] that pull anchored weights back and leave frozen ones where they are; changed in place."""
        for place, lane in enumerate(lanes.active):
            if lane.adapter:
                continue
            anchor = self.rows[lane.interval.row].anchored
            if lane.state.hyperparameters.anchored and anchor is not None:
                pulled = pull(lanes.full.values[place], anchor)
                gradient[place] += pulled if lane.parts is None else pulled * self.present(lane.state.structure)
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
                vectors = WHOLE if lane.adapter else self.layout.vectors
                norms[place] = row_norms(mean[None], vectors)[0]
        return ready
