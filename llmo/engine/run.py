"""`Run`: training in progress, with a leading replica axis. One replica is the ordinary case.

Tensors lie in flat rows ([N, P] weights, moments, averages, best so far); what is not a tensor lies in one small `State` a
row. A snapshot of a row is a copy of both, and everything random is counted, so restoring and continuing is bit-identical.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.agent import Schedule
from llmo.budget import Cost, sequence_cost
from llmo.engine.adapters import adapter_gradient, effective_weights, grow
from llmo.engine.batches import draw_batch, fixed_mixture, tracking_mixture
from llmo.engine.dropout import blocks, dropout_masks
from llmo.engine.executors import Executor, Single, Vmapped, causal_inputs
from llmo.engine.layout import MAX_RANK
from llmo.engine.models import ModelShape, build_model
from llmo.engine.optimizer import CLIP_NORM, RowAdamW, clip_rows
from llmo.errors import LlmoError
from llmo.hyperparameters import Adapter, Hyperparameters, Start, default_learning_rate
from llmo.measurement import Measurement
from llmo.tasks.task import Task

FRESH_RANK = 4
DISTILLATION_WEIGHT = 0.5
_EVALUATED_AT_ONCE = 8


@dataclass(frozen=True)
class Problem:
    """What a row of a run trains: the engine's view of an instance.

    Attributes:
        task: Data and loss.
        weights: Starting weights, [P].
        teacher: A larger model of the same vocabulary, or None.
        start: From scratch, or pre-trained.
        hyperparameters: To start with.
        roles: `(share of the budget, materials of the three slots)`, the first at 0; each holds until the next.
        interval: Optimizer steps in one environment step.
        batch: Sequences in one optimizer step.
        budget: FLOPs.
        seed: Of the replica's random streams.
    """

    task: Task
    weights: Tensor
    teacher: Any
    start: Start
    hyperparameters: Hyperparameters
    roles: tuple[tuple[float, tuple[int, ...]], ...]
    interval: int
    batch: int
    budget: float
    seed: int


@dataclass
class Interval:
    """Sums over the optimizer steps since the last evaluation."""

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    clipped: int = 0
    source_loss: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    source_count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    momentum_cosine: float = 0.0
    gradient_cosine: float = 0.0
    update_ratio: float = 0.0
    learning_rate: float = 0.0
    cost: float = 0.0


@dataclass
class State:
    """Everything of one row that is not a tensor."""

    problem: Problem
    hyperparameters: Hyperparameters
    adapter: Adapter = "full"
    rank: int = 0
    cursor: int = 0
    spent: float = 0.0
    step: int = 0
    mixture: NDArray[np.float64] = field(default_factory=lambda: np.full(3, 1 / 3))
    source_loss: NDArray[np.float64] = field(default_factory=lambda: np.full(3, np.nan))
    loss: float = math.inf
    best_loss: float = math.inf
    best_step: int = 0
    best_state: tuple[Hyperparameters, Adapter, int] | None = None
    teacher_loss: float = math.nan
    averaged_steps: int = 0
    diverged: bool = False
    schedule: Schedule | None = None
    interval: Interval = field(default_factory=Interval)


@dataclass(frozen=True)
class Snapshot:
    """One row at one moment; `tensors` by buffer name."""

    tensors: dict[str, Tensor]
    state: State


class Run:
    """N replicas of one model shape in training.

    Args:
        shape: Width and depth of every row.
        replicas: N, at least 1.
        executor: ``"single"`` (N = 1 only), ``"vmap"``, or None to choose by N.

    Raises:
        LlmoError: The executor does not fit.
    """

    def __init__(self, shape: ModelShape, replicas: int = 1, executor: str | None = None) -> None:
        name = executor or ("single" if replicas == 1 else "vmap")
        if name not in ("single", "vmap"):
            raise LlmoError("executor", name, ("single", "vmap"))
        if replicas < 1 or (name == "single" and replicas != 1):
            raise LlmoError("replicas", replicas, "1 for the executor 'single', at least 1 for 'vmap'")
        model = build_model(shape, 0)
        self.config = model.config
        self.shape = shape
        self.executor: Executor = Single(model) if name == "single" else Vmapped(model)
        self.layout = self.executor.layout
        self._blocks = len(blocks(model))
        n, p, q = replicas, self.layout.size, self.layout.adapter_size
        self.weights, self.adapters = torch.zeros(n, p), torch.zeros(n, q)
        self.optimizer, self.adapter_optimizer = RowAdamW(self.weights), RowAdamW(self.adapters)
        self.averaged, self.delivered = torch.zeros(n, p), torch.zeros(n, p)
        self._buffers = {
            "weights": self.weights, "adapters": self.adapters,
            "first": self.optimizer.first, "second": self.optimizer.second, "steps": self.optimizer.steps,
            "adapter_first": self.adapter_optimizer.first, "adapter_second": self.adapter_optimizer.second,
            "adapter_steps": self.adapter_optimizer.steps,
        }  # fmt: skip
        self._best = {name: torch.zeros_like(buffer) for name, buffer in self._buffers.items()}
        self._costs: dict[tuple[int, int], Cost] = {}
        self.states: list[State] = [None] * n  # type: ignore[list-item]

    @property
    def replicas(self) -> int:
        """N."""
        return len(self.states)

    def load(self, row: int, problem: Problem) -> None:
        """Start a problem in a row, whatever was there before. Call `evaluate` for its first measurement."""
        for buffer in (*self._buffers.values(), *self._best.values()):
            buffer[row] = 0
        self.weights[row] = problem.weights
        self.averaged[row] = problem.weights
        self.delivered[row] = problem.weights
        state = State(problem, problem.hyperparameters)
        state.mixture = fixed_mixture(state.hyperparameters.mixing)
        if problem.teacher is not None:
            state.teacher_loss = self._teacher_loss(problem)
            self._charge(state, len(problem.task.validation.inputs) * self._teacher_cost(problem))
        self.states[row] = state

    # What things cost

    def cost(self, rank: int, tokens: int) -> Cost:
        """FLOPs of one sequence of this shape with an adapter of some rank (0: none)."""
        if (rank, tokens) not in self._costs:
            self._costs[rank, tokens] = sequence_cost(self.config, tokens, rank)
        return self._costs[rank, tokens]

    def _teacher_cost(self, problem: Problem) -> float:
        return sequence_cost(problem.teacher.config, problem.task.tokens).forward

    def step_cost(self, row: int) -> float:
        """FLOPs of one optimizer step of a row as it is set now."""
        state = self.states[row]
        problem = state.problem
        cost = self.cost(state.rank, problem.task.tokens)
        distillation = state.hyperparameters.distillation
        extra = {"off": 0.0, "averaged": self.cost(0, problem.task.tokens).forward}
        soft = extra[distillation] if distillation in extra else self._teacher_cost(problem)
        return problem.batch * (cost.train + soft)

    def evaluation_cost(self, row: int) -> float:
        """FLOPs of one validation pass of a row."""
        state = self.states[row]
        task = state.problem.task
        return len(task.validation.inputs) * self.cost(state.rank, task.tokens).forward

    def affordable_steps(self, row: int) -> int:
        """Optimizer steps of the next interval: the interval's, or what the budget still pays with a validation pass."""
        state = self.states[row]
        left = state.problem.budget - state.spent - self.evaluation_cost(row)
        return max(0, min(state.problem.interval, int(left / self.step_cost(row))))

    def _charge(self, state: State, flops: float) -> None:
        state.spent += flops
        state.interval.cost += flops

    # Training

    def train(self, rows: Sequence[int]) -> None:
        """Train each row for its affordable steps. Rows may differ in how many; a diverged row stops at once."""
        counts = {row: self.affordable_steps(row) for row in rows}
        before = {row: self._trained(row).clone() for row in rows}
        done = 0
        for end in sorted(set(counts.values()) - {0}):
            previous: dict[int, Tensor] = {}
            for step in range(done, end):
                active = [row for row in rows if counts[row] > step and not self.states[row].diverged]
                ending = [row for row in active if counts[row] == end]
                keep, look = ending if step == end - 2 else [], ending if step == end - 1 else []
                if active:
                    previous = self._step(active, previous, keep, look)
            done = end
        for row in rows:
            trained = self._trained(row)
            scale = torch.linalg.vector_norm(self._effective([row])).item()
            change = torch.linalg.vector_norm(trained - before[row]).item()
            self.states[row].interval.update_ratio = change / scale if scale > 0 else 0.0

    def _trained(self, row: int) -> Tensor:
        return self.adapters[row] if self.states[row].rank else self.weights[row]

    def _step(self, rows: list[int], previous: dict[int, Tensor], keep: list[int], look: list[int]) -> dict[int, Tensor]:
        """One optimizer step of some rows. Gives the gradients of `keep`; compares those of `look` with `previous`."""
        states = [self.states[row] for row in rows]
        task = states[0].problem.task
        batch = [self._draw(state) for state in states]
        inputs = torch.from_numpy(np.stack([item[0] for item in batch]))
        labels = torch.from_numpy(np.stack([item[1] for item in batch]))
        slots = [item[2] for item in batch]
        weights = self._effective(rows)
        teacher, share = self._soft_targets(rows, inputs)
        masks = dropout_masks(
            np.array([state.problem.seed for state in states], np.uint64),
            np.array([state.cursor for state in states], np.int64),
            np.array([state.hyperparameters.dropout for state in states]),
            (self._blocks, *inputs.shape[1:], self.shape.width),
        )
        # The reported loss is the hard one, so it is taken apart from the soft targets.
        hard: list[Tensor] = []

        def loss(logits: Tensor) -> Tensor:
            trained = task.loss(logits, labels, teacher, share)
            hard.append(trained.detach() if teacher is None else task.loss(logits.detach(), labels, None, None))
            return trained

        _, gradient = self.executor.gradient(weights, inputs, loss, masks)
        losses = hard[0].mean(-1).double().numpy()
        kept: dict[int, Tensor] = {}
        lora = [place for place, state in enumerate(states) if state.rank]
        full = [place for place, state in enumerate(states) if not state.rank]
        for places, optimizer in ((full, self.optimizer), (lora, self.adapter_optimizer)):
            if not places:
                continue
            part = gradient if len(places) == len(rows) else gradient[places]
            if optimizer is self.adapter_optimizer:
                part = adapter_gradient(self.layout, part, self.adapters[[rows[place] for place in places]])
            norms = clip_rows(part).tolist()
            self._update([rows[place] for place in places], part, norms, losses[places], optimizer, previous, keep, look, kept)
        for place, (row, state) in enumerate(zip(rows, states, strict=True)):
            state.cursor += 1
            self._charge(state, self.step_cost(row))
            self.averaged[row].lerp_(weights[place], 1 / max(2, 2 * state.problem.interval))
            state.averaged_steps += 1
            interval = state.interval
            interval.steps += 1
            interval.loss += float(losses[place].mean())
            np.add.at(interval.source_loss, slots[place], losses[place])
            np.add.at(interval.source_count, slots[place], 1)
        return kept

    def _update(
        self, rows: list[int], gradient: Tensor, norms: list[float], losses: NDArray[np.float64], optimizer: RowAdamW,
        previous: dict[int, Tensor], keep: list[int], look: list[int], kept: dict[int, Tensor],
    ) -> None:  # fmt: skip
        """Diagnostics of the gradients, then AdamW on the rows that are still sound."""
        sound, rates, decays = [], [], []
        for place, (row, norm) in enumerate(zip(rows, norms, strict=True)):
            state = self.states[row]
            if not (math.isfinite(norm) and np.isfinite(losses[place]).all()):
                state.diverged = True
                continue
            interval = state.interval
            interval.norm += norm
            interval.clipped += norm > CLIP_NORM
            if row in keep:
                kept[row] = gradient[place].clone()
            if row in look:
                interval.momentum_cosine = _cosine(gradient[place], optimizer.first[row])
                if row in previous and previous[row].shape == gradient[place].shape:
                    interval.gradient_cosine = _cosine(gradient[place], previous[row])
            interval.learning_rate = self.learning_rate(row)
            sound.append(place)
            rates.append(interval.learning_rate)
            decays.append(state.hyperparameters.weight_decay)
        if sound:
            part = gradient if len(sound) == len(rows) else gradient[sound]
            optimizer.step([rows[place] for place in sound], part, rates, decays)

    def _draw(self, state: State) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        problem = state.problem
        return draw_batch(
            problem.task, problem.seed, state.cursor, problem.batch, state.mixture, self.roles(state),
            state.hyperparameters.augmentation, self.config.vocab_size,
        )  # fmt: skip

    def roles(self, state: State) -> tuple[int, ...]:
        """Which material each slot holds now; the world changes with the budget spent and never goes back."""
        spent = state.spent / state.problem.budget
        return [roles for share, roles in state.problem.roles if share <= spent][-1]

    def learning_rate(self, row: int) -> float:
        """The rate of a row's next optimizer step."""
        state = self.states[row]
        spent = min(1.0, state.spent / state.problem.budget)
        if state.schedule is not None:
            return self.default_rate(row) * state.schedule(spent)
        return state.hyperparameters.rate_at(spent)

    def default_rate(self, row: int) -> float:
        """The published default rate for a row's size, start and adapter."""
        state = self.states[row]
        return default_learning_rate(self.layout.size, state.problem.start, state.adapter)

    def _effective(self, rows: Sequence[int]) -> Tensor:
        """Weights with adapters merged, [len(rows), P]; a view where nothing needs copying."""
        weights = self.weights if len(rows) == self.replicas else self.weights[list(rows)]
        lora = [place for place, row in enumerate(rows) if self.states[row].rank]
        if lora:
            if weights is self.weights:
                weights = weights.clone()
            weights[lora] = effective_weights(self.layout, weights[lora], self.adapters[[rows[i] for i in lora]])
        return weights

    @torch.no_grad()
    def _soft_targets(self, rows: list[int], inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Teacher probabilities [n, B, T, V] and their share in the loss [n]; None when no row distils."""
        modes = [self.states[row].hyperparameters.distillation for row in rows]
        if all(mode == "off" for mode in modes):
            return None, None
        probabilities = torch.zeros(*inputs.shape, self.config.vocab_size)
        share = torch.zeros(len(rows))
        averaged = [place for place, mode in enumerate(modes) if mode == "averaged"]
        if averaged:
            logits = self.executor.logits(self.averaged[[rows[i] for i in averaged]], inputs[averaged])
            probabilities[averaged] = logits.softmax(-1)
        for place, mode in enumerate(modes):
            if mode != "off":
                share[place] = DISTILLATION_WEIGHT
            if mode == "teacher":
                teacher = self.states[rows[place]].problem.teacher
                arguments = causal_inputs(inputs.shape[-1])
                probabilities[place] = teacher(input_ids=inputs[place], **arguments).logits.softmax(-1)
        return probabilities, share

    @torch.no_grad()
    def _teacher_loss(self, problem: Problem) -> float:
        examples = problem.task.validation
        logits = problem.teacher(input_ids=examples.inputs, **causal_inputs(problem.task.tokens)).logits
        return problem.task.score(logits[None], examples.labels[None]).item()

    # Measuring

    def evaluate(self, rows: Sequence[int]) -> list[Measurement]:
        """A validation pass of some rows: their measurements, in order. Keeps the best weights so far."""
        measurements = []
        for start in range(0, len(rows), _EVALUATED_AT_ONCE):
            part = list(rows[start : start + _EVALUATED_AT_ONCE])
            examples = [self.states[row].problem.task.validation for row in part]
            inputs = torch.stack([item.inputs for item in examples])
            labels = torch.stack([item.labels for item in examples])
            weights = self._effective(part)
            losses = self.states[part[0]].problem.task.score(self.executor.logits(weights, inputs), labels).tolist()
            for place, (row, loss) in enumerate(zip(part, losses, strict=True)):
                self._charge(self.states[row], self.evaluation_cost(row))
                measurements.append(self._measure(row, loss, weights[place]))
        return measurements

    def _measure(self, row: int, loss: float, weights: Tensor) -> Measurement:
        state = self.states[row]
        interval, state.interval = state.interval, Interval()
        state.diverged |= not math.isfinite(loss)
        state.loss = math.inf if state.diverged else loss
        if state.loss < state.best_loss:
            state.best_loss, state.best_step = state.loss, state.step
            state.best_state = (state.hyperparameters, state.adapter, state.rank)
            self.delivered[row] = weights
            for name, buffer in self._buffers.items():
                self._best[name][row] = buffer[row]
        counts = interval.source_count
        seen = counts > 0
        state.source_loss[seen] = interval.source_loss[seen] / counts[seen]
        if state.hyperparameters.mixing == "tracking" and interval.steps and not state.diverged:
            state.mixture = tracking_mixture(state.mixture, state.source_loss, state.loss)
        steps = max(1, interval.steps)
        sources = state.problem.task.sources
        return Measurement(
            step=state.step,
            optimizer_steps=interval.steps,
            spent=min(1.0, state.spent / state.problem.budget),
            cost=interval.cost,
            validation_loss=state.loss,
            best_validation_loss=state.best_loss,
            train_loss=interval.loss / steps if interval.steps else math.nan,
            source_loss=_triple(state.source_loss),
            source_share=_triple(counts / max(1, counts.sum())),
            source_tokens=_triple(np.array([len(sources[role]) for role in self.roles(state)])),
            mixture=_triple(state.mixture),
            gradient_norm=interval.norm / steps,
            clipped=interval.clipped / steps,
            momentum_cosine=interval.momentum_cosine,
            gradient_cosine=interval.gradient_cosine,
            update_ratio=interval.update_ratio,
            learning_rate=interval.learning_rate,
            teacher_loss=state.teacher_loss,
            diverged=state.diverged,
        )

    def test_loss(self, row: int) -> float:
        """Test loss of the delivered (best by validation) weights; for scoring only, and charged to nobody."""
        task = self.states[row].problem.task
        losses = []
        for start in range(0, len(task.test.inputs), 64):
            inputs, labels = task.test.inputs[None, start : start + 64], task.test.labels[None, start : start + 64]
            score = task.score(self.executor.logits(self.delivered[row : row + 1], inputs), labels)
            losses.append(score.item() * inputs.shape[1])
        return sum(losses) / len(task.test.inputs)

    # Snapshots and changes of the model

    def snapshot(self, row: int) -> Snapshot:
        """Everything of a row: weights, moments, averages, best, settings, counters, budget."""
        tensors = {name: buffer[row].clone() for name, buffer in self._buffers.items()}
        tensors |= {f"best_{name}": buffer[row].clone() for name, buffer in self._best.items()}
        tensors |= {"averaged": self.averaged[row].clone(), "delivered": self.delivered[row].clone()}
        return Snapshot(tensors, _copy(self.states[row]))

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """Put a snapshot into a row; continuing from it is bit-identical within one executor."""
        for name, buffer in self._buffers.items():
            buffer[row] = snapshot.tensors[name]
            self._best[name][row] = snapshot.tensors[f"best_{name}"]
        self.averaged[row] = snapshot.tensors["averaged"]
        self.delivered[row] = snapshot.tensors["delivered"]
        self.states[row] = _copy(snapshot.state)

    def fresh_adapter(self, row: int) -> None:
        """Freeze the weights and train a fresh LoRA adapter of rank `FRESH_RANK`; one in place is merged first."""
        self.merge_adapter(row)
        state = self.states[row]
        self._keep_relative_rate(row, "lora")
        state.rank = FRESH_RANK
        grow(self.layout, self.adapters[row], 0, FRESH_RANK, self._adapter_seed(state))

    def grow_adapter(self, row: int) -> None:
        """Double the adapter's rank; what the model computes does not change."""
        state = self.states[row]
        new = min(MAX_RANK, 2 * state.rank)
        grow(self.layout, self.adapters[row], state.rank, new, self._adapter_seed(state))
        state.rank = new

    def merge_adapter(self, row: int) -> None:
        """Merge an adapter into the weights and train all of them; nothing happens without one."""
        state = self.states[row]
        if state.rank:
            self.weights[row] = self._effective([row])[0]
            self._keep_relative_rate(row, "full")
            state.rank = 0
            self.optimizer.reset(row)
        self.adapters[row].zero_()
        self.adapter_optimizer.reset(row)

    def _keep_relative_rate(self, row: int, adapter: Adapter) -> None:
        state = self.states[row]
        relative = state.hyperparameters.learning_rate / self.default_rate(row)
        state.adapter = adapter
        self.change(row, learning_rate=relative * self.default_rate(row))

    @staticmethod
    def _adapter_seed(state: State) -> int:
        return (state.problem.seed * 1_000_003 + state.cursor) % 2**63

    def load_best(self, row: int) -> None:
        """Weights, optimizer and hyperparameters of the best validation so far; budget, cursor and world move on."""
        state = self.states[row]
        if state.best_state is None:
            raise LlmoError("roll back", "no measurement yet", "a run that was evaluated")
        for name, buffer in self._buffers.items():
            buffer[row] = self._best[name][row]
        settings, state.adapter, state.rank = state.best_state
        mixing = state.hyperparameters.mixing
        self.change(row, **{**vars(settings), "mixing": mixing})

    def load_averaged(self, row: int) -> None:
        """Set the effective weights to the running average over about two intervals; an adapter stays on."""
        change = self.averaged[row] - self._effective([row])[0]
        self.weights[row] += change

    def change(self, row: int, **settings: Any) -> None:
        """Replace hyperparameters of a row; a new mixing mode resets the mixture."""
        state = self.states[row]
        old = state.hyperparameters
        state.hyperparameters = Hyperparameters(**{**vars(old), **settings})
        if state.hyperparameters.mixing not in (old.mixing, "tracking"):
            state.mixture = fixed_mixture(state.hyperparameters.mixing)


def _triple(values: NDArray[Any]) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    return float(torch.dot(a, b) / scale) if scale > 0 else 0.0


def _copy(state: State) -> State:
    result = copy.copy(state)
    result.mixture, result.source_loss = state.mixture.copy(), state.source_loss.copy()
    result.interval = copy.deepcopy(state.interval)
    return result
