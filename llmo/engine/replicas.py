"""`Replicas`: N training runs at rest, and what can be done to one between its optimizer steps.

Tensors lie in one `Row` each; what is not a tensor lies in one small `State`. A snapshot is both at one moment, and
everything random is counted, so restoring and continuing is bit-identical.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmo.budget import Cost, sequence_cost
from llmo.engine.adapters import adapted, grow, merge
from llmo.engine.batches import fixed_mixture
from llmo.engine.choice import make_executor, valid_device
from llmo.engine.dropout import blocks
from llmo.engine.intervals import sampled
from llmo.engine.layout import MAX_RANK
from llmo.engine.memory import Passes
from llmo.engine.models import make_plain
from llmo.engine.ranks import Ranks, launched
from llmo.engine.rows import make_rows
from llmo.engine.single import SingleSettings
from llmo.engine.soft_targets import SoftTargets, teacher_loss
from llmo.engine.state import Problem, Snapshot, State
from llmo.errors import LlmoError
from llmo.hyperparameters import Adapter, Hyperparameters, default_learning_rate
from llmo.kinds import Interface, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FRESH_RANK = 4


class Replicas:
    """N replicas of one model.

    Args:
        model: Every row's architecture; with `frozen`, also the weights that all rows share.
        replicas: N, at least 1.
        executor: ``single``, ``batched`` or ``compiled``; None chooses, see `make_executor`.
        frozen: Whether the model is frozen and rows hold LoRA factors; else every row has weights of its own.
        device: Where everything lies, such as ``cuda``; `accelerate launch` gives every rank its own.
        single: How one large model is trained, under the executor ``single``; None for the defaults.

    Attributes:
        states: One a row; set by `load`.
        rows: The tensors of each row.
        parameters: Of the model, an adapter not counted.
        blocks: L, the model's repeated blocks.
        interface: How the model is called.
        ranks: The processes that train the model together; None where this one does so alone.

    Raises:
        LlmoError: The executor, the number of replicas or the device does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        replicas: int = 1,
        executor: str | None = None,
        frozen: bool = False,
        device: str = "cpu",
        single: SingleSettings | None = None,
    ) -> None:
        if replicas < 1:
            raise LlmoError("replicas", replicas, "at least 1")
        self.single, self.frozen = single or SingleSettings(), frozen
        self.ranks = Ranks(self.single) if launched() else None
        self.device = valid_device(device) if self.ranks is None else self.ranks.device
        self.config = model.config
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.blocks = len(blocks(model))
        self.interface = Interface(model.config, kind_of(model))
        own = copy.deepcopy(model)
        make_plain(own)
        self.executor = make_executor(own, replicas, executor, frozen, self.device, self.single, self.ranks)
        self.layout = self.executor.layout
        self._counted = sampled(self.layout.matrices).to(self.device)
        self.rows = make_rows(replicas, self.layout, self.device)
        self.states: list[State] = [None] * replicas  # type: ignore[list-item]
        self._soft_targets = SoftTargets(self.executor, self.device)
        self._passes = Passes(self.executor)
        self._costs: dict[tuple[int, int, int, tuple[str, ...]], Cost] = {}

    @property
    def replicas(self) -> int:
        """N."""
        return len(self.states)

    @property
    def parts(self) -> int:
        """In how many equal parts a batch is computed: micro-batches of every process."""
        return self.single.accumulation * (1 if self.ranks is None else self.ranks.count)

    def load(self, row: int, problem: Problem) -> None:
        """Start a problem in a row, whatever was there before. Call `evaluate` for its first measurement.

        Raises:
            LlmoError: Its batch cannot be divided into the parts that it is computed in.
        """
        if problem.batch % self.parts:
            raise LlmoError(
                "sequences in a batch", problem.batch, f"a multiple of {self.parts}: accumulation x processes"
            )
        self.rows[row].start(self.layout.own(problem.weights))
        state = State(
            replace(problem, weights=problem.weights.new_empty(0)),
            problem.hyperparameters,
            adapter="lora" if problem.rank else "full",
            rank=problem.rank,
            mixture=fixed_mixture(problem.hyperparameters.mixing),
        )
        if problem.teacher is not None:
            tokens, positions, kind = problem.task.tokens, problem.task.positions, kind_of(problem.teacher)
            cost = sequence_cost(problem.teacher.config, tokens, kind=kind, positions=positions)
            state.teacher_cost = cost.forward
            state.teacher_loss = teacher_loss(problem)
            state.charge(len(problem.task.validation.inputs) * state.teacher_cost)
        self.states[row] = state

    def snapshot(self, row: int) -> Snapshot:
        """Everything of a row: weights, moments, averages, best, settings, counters, budget."""
        return Snapshot(self.rows[row].share(), self.states[row].copy())

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """Put a snapshot into a row; continuing from it is bit-identical within one executor."""
        self.rows[row].take(snapshot.tensors)
        self.states[row] = snapshot.state.copy()

    # What things cost

    def cost(self, rank: int, problem: Problem) -> Cost:
        """FLOPs of one sequence of a problem with an adapter of some rank (0: none); see `sequence_cost`."""
        key = rank, problem.task.tokens, problem.task.positions, problem.target_modules
        if key not in self._costs:
            _, tokens, positions, modules = key
            self._costs[key] = sequence_cost(self.config, tokens, rank, modules, self.interface.kind, positions)
        return self._costs[key]

    def step_cost(self, row: int) -> float:
        """FLOPs of one optimizer step of a row as it is set now."""
        state = self.states[row]
        match state.hyperparameters.distillation:
            case "off":
                soft = 0.0
            case "averaged":
                soft = self.cost(state.rank if self.frozen else 0, state.problem).forward
            case "teacher":
                soft = state.teacher_cost
        return state.problem.batch * (self.cost(state.rank, state.problem).train + soft)

    def evaluation_cost(self, row: int) -> float:
        """FLOPs of one validation pass of a row."""
        state = self.states[row]
        return len(state.problem.task.validation.inputs) * self.cost(state.rank, state.problem).forward

    def affordable_steps(self, row: int) -> int:
        """Optimizer steps of the next interval: all of it, or what the budget still pays with a validation pass."""
        state = self.states[row]
        left = state.problem.budget - state.spent - self.evaluation_cost(row)
        return max(0, min(state.problem.interval, int(left / self.step_cost(row))))

    # Settings

    def change(self, row: int, **settings: Any) -> None:
        """Replace hyperparameters of a row; a new mixing mode but tracking resets the mixture."""
        state = self.states[row]
        old = state.hyperparameters
        state.hyperparameters = Hyperparameters(**{**vars(old), **settings})
        if state.hyperparameters.mixing not in (old.mixing, "tracking"):
            state.mixture = fixed_mixture(state.hyperparameters.mixing)

    def default_rate(self, row: int) -> float:
        """The published default rate for a row's size, start and adapter."""
        state = self.states[row]
        return default_learning_rate(self.parameters, state.problem.start, state.adapter)

    def relative_rate(self, row: int) -> float:
        """The rate before any decay, as a multiple of the default."""
        return self.states[row].hyperparameters.learning_rate / self.default_rate(row)

    # Weights and adapters

    def has_own_adapter(self, row: int) -> bool:
        """Whether a row trains LoRA factors on weights of its own."""
        return self.states[row].rank > 0 and not self.frozen

    def effective(self, rows: Sequence[int]) -> Tensor:
        """What the executor runs on, [len(rows), P]: weights with adapters merged, or the factors on a frozen base.

        To be read only: a single row's may be the row itself.
        """
        parts = [self._merged(self.rows[row].weights, self.rows[row].factors) for row in rows]
        return torch.stack(parts) if len(parts) > 1 else parts[0][None]

    def _merged(self, weights: Tensor, factors: Tensor | None) -> Tensor:
        return weights if factors is None else merge(self.layout, weights[None].clone(), factors[None])[0]

    def delivered(self, row: int) -> Tensor:
        """What a row delivers, [1, P]: the best by validation, an adapter of its own merged; the first before that."""
        return self._merged(self.rows[row].best_weights, self.rows[row].best_factors)[None].clone()

    def fresh_adapter(self, row: int) -> None:
        """Freeze the weights and train a fresh LoRA adapter of rank `FRESH_RANK`; one in place is merged first."""
        self.merge_adapter(row)
        self._keep_relative_rate(row, "lora")
        self._grow(row, FRESH_RANK)

    def grow_adapter(self, row: int) -> None:
        """Double the adapter's rank; what the model computes does not change."""
        self._grow(row, min(MAX_RANK, 2 * self.states[row].rank))

    def _grow(self, row: int, rank: int) -> None:
        state = self.states[row]
        seed = (state.problem.seed * 1_000_003 + state.cursor) % 2**63
        factors = (self.rows[row].own_full() if self.frozen else self.rows[row].own_lora()).values[0]
        linears = adapted(self.layout.factors, factors) if state.rank else self.layout.factors
        grow(linears, factors, state.rank, rank, seed)
        state.rank = rank

    def merge_adapter(self, row: int) -> None:
        """Merge an adapter into the weights and train all of them; nothing happens without one."""
        state = self.states[row]
        if not state.rank:
            return
        merged, full = self.effective([row])[0], self.rows[row].own_full()
        self.rows[row].drop_adapter()
        full.values[0] = merged
        full.reset(0)
        self._keep_relative_rate(row, "full")
        state.rank = 0

    def _keep_relative_rate(self, row: int, adapter: Adapter) -> None:
        state = self.states[row]
        relative = self.relative_rate(row)
        state.adapter = adapter
        self.change(row, learning_rate=relative * self.default_rate(row))

    def load_best(self, row: int) -> None:
        """Weights, optimizer and hyperparameters of the best validation so far; the average starts again from there.

        Budget, cursor and world move on, and so does the mixture: it answers to the world as it is now.

        Raises:
            LlmoError: The row has no finite validation loss yet.
        """
        state = self.states[row]
        if state.best_state is None:
            raise LlmoError("roll back", "no measurement yet", "a run that was evaluated")
        self.rows[row].load_best()
        settings, state.adapter, state.rank = state.best_state
        self.change(row, **{**vars(settings), "mixing": state.hyperparameters.mixing})
        self.rows[row].own_average()[0] = self.effective([row])[0]
        state.averaged_steps = 0

    def load_averaged(self, row: int) -> None:
        """Set the effective weights to the running average over about two intervals; an adapter stays on."""
        here = self.rows[row]
        adapter = self.effective([row])[0] - here.weights
        here.own_full().values[0] = here.averaged - adapter
