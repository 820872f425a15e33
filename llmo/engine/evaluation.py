"""`Evaluation`: validation and test losses of training runs, and what is decided by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llmo.engine.batches import tracking_mixture
from llmo.engine.changes import Changes
from llmo.engine.executors import Executor
from llmo.engine.intervals import sampled
from llmo.engine.measuring import measurement
from llmo.engine.scoring import score_in_passes
from llmo.engine.smaller import Smaller
from llmo.engine.soup import greedy_soup
from llmo.engine.structure import WHOLE_MODEL
from llmo.measurement import Measurement

_EVALUATED_AT_ONCE = {"cpu": 4}
"""Rows in one validation pass: few where the cache is what limits, as many as there are elsewhere."""
_WHOLE = 64
"""Sequences up to which a row's validation examples are looked at in one pass."""


class Evaluation(Changes):
    """N replicas of one model that can be evaluated; see `Replicas` for the arguments."""

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        measurements: dict[int, Measurement] = {}
        size = _EVALUATED_AT_ONCE.get(self.device.type, max(1, len(rows)))
        alike: dict[tuple[int, int, int], list[int]] = {}
        for row in rows:
            alike.setdefault(self.states[row].structure.removed, []).append(row)
        parts = [same[start : start + size] for same in alike.values() for start in range(0, len(same), size)]
        for part in parts:
            tasks = [self.states[row].problem.task for row in part]
            inputs = torch.stack([task.validation.inputs for task in tasks]).to(self.device)
            labels = torch.stack([task.validation.labels for task in tasks]).to(self.device)
            weights, phases, executor = self.effective(part), tasks[0].phases, self._executor_of(part)
            losses = [
                self._score(part[0], weights, ids, targets, executor)
                for ids, targets in zip(inputs.chunk(phases, 1), labels.chunk(phases, 1), strict=True)
            ]
            for row, *apart in zip(part, *(loss.tolist() for loss in losses), strict=True):
                loss = sum(apart) / phases
                if phases > 1:
                    self.states[row].note_phases(apart)
                self.states[row].charge(self.evaluation_cost(row))
                measurements[row] = self._close(row, loss)
        return [measurements[row] for row in rows]

    def _executor_of(self, rows: Sequence[int]) -> Executor | Smaller:
        """What runs rows whose structures are of one size."""
        structures = [self.states[row].structure for row in rows]
        if structures[0] == WHOLE_MODEL:
            return self.executor
        return self._smaller(structures[0], [self._smaller.parts(structure) for structure in structures])

    def _close(self, row: int, loss: float) -> Measurement:
        """End a row's interval with a validation loss."""
        state = self.states[row]
        sums = state.interval
        state.interval = type(sums)()
        state.diverged |= not math.isfinite(loss)
        state.loss = math.inf if state.diverged else loss
        size = self.size(row)
        state.priced = state.loss * size**state.problem.size_price
        if state.priced < state.best_priced:
            state.best_loss, state.best_priced = state.loss, state.priced
            state.best_state = (state.hyperparameters, state.adapter, state.rank, state.structure)
            self.rows[row].keep_best()
        if not sums.steps:
            sums.update_ratio = self._first_change(row)
        seen = sums.source_count > 0
        state.source_loss[seen] = sums.source_loss[seen] / sums.source_count[seen]
        if state.collected and sums.steps and not state.diverged:
            self.collect(row)
        if state.hyperparameters.mixing == "tracking" and sums.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.loss)
        return measurement(state, sums, size)

    def soup_candidates(self, row: int) -> list[str]:
        """Names of what `load_soup` would mix with the best weights, by validation loss, the running average last."""
        state = self.states[row]
        # A mean of weights that were pruned apart would have to be pruned again.
        if state.best_state is None or self.frozen or not self.mixes(row) or state.hyperparameters.sparsity:
            return []
        if state.best_state[3] != state.structure:
            return []
        losses = {name: saved[3] for name, saved in state.registers.items() if saved[4] == state.structure}
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
        counted = self._counted
        if state.structure != WHOLE_MODEL:
            counted = counted * sampled(self.present(state.structure))
        scale = vectors.norm(sampled(self.effective([row])[0]) * counted).item()
        if state.rank or not scale > 0:
            return 0.0
        return state.hyperparameters.learning_rate * vectors.norm(counted).item() / scale

    def _score(
        self, row: int, weights: Tensor, inputs: Tensor, labels: Tensor, executor: Executor | Smaller | None = None
    ) -> Tensor:
        """Mean losses [n] of weights [n, P] on sequences [n, V, T], of the kind of task and batch that a row has."""
        problem, executor = self.states[row].problem, executor or self.executor
        if self.parts == 1 and inputs.shape[1] <= _WHOLE:
            return problem.task.score(executor.logits(weights, inputs, labels.shape[-1]), labels)
        size = problem.batch // self.parts
        return score_in_passes(executor, problem.task, weights, inputs, labels, size, self.ranks)

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
