"""`Evaluation`: validation and test losses of training runs, and what is decided by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llmo.engine.batches import tracking_mixture
from llmo.engine.changes import Changes
from llmo.engine.ensembles import shares, together
from llmo.engine.executors import Executor
from llmo.engine.intervals import sampled
from llmo.engine.measuring import measurement
from llmo.engine.scoring import score_in_passes
from llmo.engine.smaller import Smaller
from llmo.engine.soup import greedy_soup
from llmo.engine.structure import WHOLE_MODEL
from llmo.hyperparameters import VIRTUAL, Hyperparameters
from llmo.measurement import Measurement

_EVALUATED_AT_ONCE = {"cpu": 4}
"""Rows in one validation pass: few where the cache is what limits, as many as there are elsewhere."""
_WHOLE = 64
"""Sequences up to which a row's validation examples are looked at in one pass."""

Found = tuple[list[float], float, list[float]]
"""Validation loss of each phase, that of the present weights alone, and the share in a mean of each that predicts."""


class Evaluation(Changes):
    """N replicas of one model that can be evaluated; see `Replicas` for the arguments."""

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        found = self._evaluate_alone([row for row in rows if not self.states[row].members])
        measurements = []
        for row in rows:
            apart, own, share = found[row] if row in found else self._evaluate_together(row)
            if len(apart) > 1:
                self.states[row].note_phases(apart)
            self.states[row].charge(self.evaluation_cost(row))
            measurements.append(self._close(row, sum(apart) / len(apart), own, share))
        return measurements

    def _evaluate_alone(self, rows: Sequence[int]) -> dict[int, Found]:
        """What rows without others that predict along have validated."""
        found: dict[int, Found] = {}
        size = _EVALUATED_AT_ONCE.get(self.device.type, max(1, len(rows)))
        alike: dict[tuple[int, int, int], list[int]] = {}
        for row in rows:
            alike.setdefault(self.states[row].structure.removed, []).append(row)
        parts = [same[start : start + size] for same in alike.values() for start in range(0, len(same), size)]
        for part in parts:
            examples = [self.states[row].validation for row in part]
            inputs = torch.stack([one.inputs for one in examples]).to(self.device)
            labels = torch.stack([one.labels for one in examples]).to(self.device)
            weights, phases = self.effective(part), self.states[part[0]].problem.task.phases
            executor = self._executor_of(part)
            losses = [
                self._score(part[0], weights, ids, targets, executor)
                for ids, targets in zip(inputs.chunk(phases, 1), labels.chunk(phases, 1), strict=True)
            ]
            for row, *apart in zip(part, *(loss.tolist() for loss in losses), strict=True):
                found[row] = apart, sum(apart) / phases, [1.0]
        return found

    def _executor_of(self, rows: Sequence[int]) -> Executor | Smaller:
        """What runs rows whose structures are of one size."""
        structures = [self.states[row].structure for row in rows]
        if structures[0] == WHOLE_MODEL:
            return self.executor
        return self._smaller(structures[0], [self._smaller.parts(structure) for structure in structures])

    def _evaluate_together(self, row: int) -> Found:
        """What a row has validated together with what its registers hold."""
        state, task, examples = self.states[row], self.states[row].problem.task, self.states[row].validation
        others = [self.saved_weights(row, name) for name in state.members]
        weights = torch.stack([self.effective([row])[0], *others])
        labels = examples.labels[None].to(self.device)
        logits = self._logits(row, weights, examples.inputs, labels.shape[-1])
        losses = task.score(logits, labels.expand(len(weights), *labels.shape[1:]))
        share = shares(losses)
        mixed = together(logits, share, state.hyperparameters.prediction)
        parts = zip(mixed.chunk(task.phases, 1), labels.chunk(task.phases, 1), strict=True)
        return [task.score(logs, targets).item() for logs, targets in parts], losses[0].item(), share.tolist()

    def _close(self, row: int, loss: float, own: float, share: Sequence[float]) -> Measurement:
        """End a row's interval.

        Args:
            row: Which.
            loss: Validation loss of what predicts.
            own: That of the present weights alone.
            share: Of each that predicts in their mean, the present weights first.
        """
        state = self.states[row]
        sums = state.interval
        state.interval = type(sums)()
        # A vote has a loss even where weights have none.
        state.diverged |= not (math.isfinite(loss) and math.isfinite(own))
        state.loss, state.own_loss = (math.inf, math.inf) if state.diverged else (loss, own)
        size, work = self.size(row), self.work(row)
        state.priced = state.loss * size**state.problem.size_price * work**state.problem.work_price
        if state.priced < state.best_priced:
            state.best_loss, state.best_priced = state.loss, state.priced
            state.best_state = (state.hyperparameters, state.adapter, state.rank, state.structure)
            saved = [state.registers[name] for name in state.members]
            state.best_others = tuple((one[1], one[4], part) for one, part in zip(saved, share[1:], strict=True))
            self.rows[row].keep_best()
            self.rows[row].keep_others(state.members)
        if not sums.steps:
            sums.update_ratio = self._first_change(row)
        seen = sums.source_count > 0
        state.source_loss[seen] = sums.source_loss[seen] / sums.source_count[seen]
        if state.collected and sums.steps and not state.diverged and state.adapter not in VIRTUAL:
            self.collect(row)
        if state.hyperparameters.mixing == "tracking" and sums.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.own_loss)
        return measurement(state, sums, size, work)

    def soup_candidates(self, row: int) -> list[str]:
        """Names of what `load_soup` would mix with the best weights, by validation loss, the running average last."""
        state = self.states[row]
        # A mean of weights that were pruned apart would have to be pruned again.
        if state.best_state is None or self.frozen or not self.mixes(row) or state.hyperparameters.sparsity:
            return []
        best, adapter, _, structure = state.best_state
        if adapter in VIRTUAL or structure != state.structure or state.members or state.best_others:
            # The loss of an ensemble is none that a soup could be measured by.
            return []
        # What the best loss was measured on is to be what the others are measured on.
        here = _reading(state.hyperparameters)
        if _reading(best) != here:
            return []
        alike = (name for name, saved in state.registers.items() if (saved[4], _reading(saved[0])) == (structure, here))
        losses = {name: state.registers[name][3] for name in alike if state.registers[name][1] not in VIRTUAL}
        if state.loss > state.best_loss:
            losses["current"] = state.loss
        names = sorted(losses, key=lambda name: losses[name])
        return [*names, "averaged"] if state.averaged_steps >= state.problem.interval else names

    def can_pay_soup(self, row: int) -> bool:
        """Whether there is something to mix, and the budget pays for its validation passes and a step."""
        count = len(self.soup_candidates(row))
        return count > 0 and self.pays(row, (count + 1) * self.evaluation_cost(row))

    def load_soup(self, row: int) -> None:
        """Set the effective weights to a greedy soup of what is kept; an adapter stays on."""
        state, examples = self.states[row], self.states[row].validation
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

    def can_predict_together(self, row: int) -> bool:
        """Whether a register holds what could predict along, and the budget pays for its validation passes and a step.

        Predictions are probabilities: numbers have none. Where several processes train one model, it predicts alone.
        """
        state = self.states[row]
        if not state.registers or self.interface.outputs < 2 or self.ranks is not None:
            return False
        return self.pays(row, self.evaluation_cost(row, tuple(state.registers)))

    def can_save(self, row: int, name: str) -> bool:
        """Whether a register does not hold just this, and the budget pays for one more that predicts along."""
        state = self.states[row]
        if self.holds(row, name):
            return False
        if state.hyperparameters.prediction == "alone" or name in state.registers:
            return True
        # Together they run as whole models.
        whole = self.cost(state.rank, state.problem, state.adapter).forward * len(state.problem.task.validation.inputs)
        return self.pays(row, self.evaluation_cost(row) + whole)

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

    def _logits(self, row: int, weights: Tensor, inputs: Tensor, positions: int) -> Tensor:
        """Logits [m, V, P, C] that weights [m, P] give for the same sequences [V, T]."""
        size = len(inputs) if len(inputs) <= _WHOLE else self.states[row].problem.batch
        parts = inputs.to(self.device).split(size)
        passes = (part[None].repeat(len(weights), 1, 1) for part in parts)
        return torch.cat([self.executor.logits(weights, part, positions) for part in passes], 1)

    def test_loss(self, row: int) -> float:
        """Test loss of what is delivered (the best by validation); for scoring only, and charged to nobody."""
        state, task = self.states[row], self.states[row].problem.task
        settings = state.hyperparameters if state.best_state is None else state.best_state[0]
        test = task.held_out(task.test, settings)
        weights, size, total, count = self.delivered(row), len(task.validation.inputs), 0.0, 0
        others = [share for *_, share in state.best_others]
        share = torch.tensor([max(0.0, 1 - sum(others)), *others], dtype=torch.float64, device=self.device)
        for start in range(0, len(test.inputs), size):
            inputs, labels = (part[None, start : start + size].to(self.device) for part in vars(test).values())
            here = int(task.counts(labels).sum())
            if state.best_others:
                logits = self._logits(row, weights, inputs[0], labels.shape[-1])
                loss = task.score(together(logits, share, settings.prediction), labels)
            else:
                loss = self._score(row, weights, inputs, labels)
            total += loss.item() * here
            count += here
        return total / count


def _reading(settings: Hyperparameters) -> tuple[int, int, bool]:
    """How texts are read and classes said: only weights that agree on it can be mixed."""
    return settings.template, settings.shots, settings.verbalised
