"""`Replicas`: N training runs at rest, and what can be done to one between its optimizer steps.

Tensors lie in one `Row` each; what is not a tensor lies in one small `State`. A snapshot is both at one moment, and
everything random is counted, so restoring and continuing is bit-identical.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llmo.budget import Cost, sequence_cost
from llmo.engine.batches import fixed_mixture
from llmo.engine.choice import make_executor, valid_device
from llmo.engine.dropout import blocks
from llmo.engine.intervals import sampled
from llmo.engine.memory import Passes
from llmo.engine.models import make_plain
from llmo.engine.next_batch import NextBatch
from llmo.engine.ranks import Ranks, launched
from llmo.engine.rows import make_rows
from llmo.engine.single import SingleSettings
from llmo.engine.smaller import SmallerModels
from llmo.engine.soft_targets import teacher_loss
from llmo.engine.state import Problem, Snapshot, State
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.engine.structures import Structures
from llmo.engine.virtual import VirtualTokens, can_have_virtual_tokens, with_virtual_tokens
from llmo.errors import LlmoError
from llmo.hyperparameters import VIRTUAL, Hyperparameters, default_learning_rate
from llmo.kinds import Interface, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Replicas:
    """N replicas of one model.

    Args:
        model: Every row's architecture; with `frozen`, also the weights that all rows share.
        replicas: N, at least 1.
        executor: ``single``, ``batched`` or ``compiled``; None chooses, see `make_executor`.
        frozen: Whether the model is frozen and rows hold LoRA factors; else every row has weights of its own.
        device: Where everything lies, such as ``cuda``; `accelerate launch` gives every rank its own.
        single: How one large model is trained, under the executor ``single``; None for the defaults.
        virtual: Whether rows have room for virtual tokens, where the model and how it is trained allow them.

    Attributes:
        states: One a row; set by `load`.
        rows: The tensors of each row.
        parameters: Of the model, an adapter not counted.
        blocks: L, the model's repeated blocks.
        interface: How the model is called.
        ranks: The processes that train the model together; None where this one does so alone.
        structures: Where the model's parts lie in a row, some of which may be absent.

    Raises:
        LlmoError: The executor, the number of replicas or the device does not fit.
    """

    _virtual: VirtualTokens | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        replicas: int = 1,
        executor: str | None = None,
        frozen: bool = False,
        device: str = "cpu",
        single: SingleSettings | None = None,
        virtual: bool = False,
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
        plain = not frozen and self.ranks is None and self.single == SingleSettings()
        if virtual and plain and can_have_virtual_tokens(model):
            self._virtual = with_virtual_tokens(self.executor, model, self.device)
            self.executor = self._virtual
        self.layout = self.executor.layout
        self.structures = Structures(model, self.layout)
        # Each size would take a minute to compile.
        name = "batched" if executor == "compiled" else executor
        others = (replicas, name, False, self.device, self.single, None)
        self._smaller = SmallerModels(self.structures, lambda small: make_executor(small, *others), self.device)
        self._counted = sampled(self.layout.matrices).to(self.device)
        self.rows = make_rows(replicas, self.layout, self.device)
        self.states: list[State] = [None] * replicas  # type: ignore[list-item]
        self._next_batch = NextBatch(
            self.executor, own, self.interface, self.blocks, self.device, self.single.accumulation
        )
        self._passes = Passes(self.executor)
        self._costs: dict[tuple[Any, ...], Cost] = {}
        self._sizes = {WHOLE_MODEL.removed: self.parameters}

    @cached_property
    def _matrices(self) -> Tensor:
        """Which places of a row belong to matrices, bool [P]; only what prunes asks for it."""
        return self.layout.matrices.bool().to(self.device)

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

    def saved_structure(self, row: int, name: str) -> Structure:
        """The structure of what was saved under a name, or that the best validation had (`best`)."""
        state = self.states[row]
        if name != "best":
            return state.registers[name][4]
        return WHOLE_MODEL if state.best_state is None else state.best_state[3]

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
        optimizer, size = state.hyperparameters.optimizer, self._size(state.structure)
        return default_learning_rate(size, state.problem.start, state.adapter, optimizer, self._trained(state))

    def _size(self, structure: Structure) -> int:
        """Parameters of a model of a structure."""
        if structure.removed not in self._sizes:
            self._sizes[structure.removed] = len(self.structures.places(structure))
        return self._sizes[structure.removed]

    def _trained(self, state: State) -> int:
        """How many parameters an adapter trains, one of some rank on all layers; 0 without one."""
        if self._virtual is not None and state.adapter in VIRTUAL:
            return math.prod(self._virtual.layout.shapes_of[state.adapter])
        return state.rank * sum(linear.inputs + linear.outputs for linear in self.layout.factors)

    def relative_rate(self, row: int) -> float:
        """The rate before any decay, as a multiple of the default."""
        return self.states[row].hyperparameters.learning_rate / self.default_rate(row)

    def weight_decay(self, row: int) -> float:
        """Decoupled weight decay of a row: a step takes as much off as AdamW's does at the same relative rate."""
        state = self.states[row]
        adamw = default_learning_rate(self._size(state.structure), state.problem.start, state.adapter)
        return state.hyperparameters.weight_decay * adamw / self.default_rate(row)

    def first_trained(self, row: int) -> int:
        """Where in a row begins what is trained: behind the lowest layers that are frozen, or behind all weights."""
        if self.states[row].adapter in VIRTUAL:
            return self.layout.virtual
        frozen = self.states[row].hyperparameters.frozen
        return self.layout.begins[frozen - 1] if frozen else 0

    def _frozen_parameters(self, row: int) -> int:
        """How many of the model's parameters, in its order, are not trained."""
        first = self.first_trained(row)
        # Mostly all are trained, and a frozen base has no parameters in a row.
        return sum(start < first for start in self.structures.starts(self.states[row].structure)) if first else 0
