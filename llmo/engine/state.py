"""What a row of a run is besides its tensors: its problem, its settings, its counters and the sums of its interval."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llmo.agent import Schedule
from llmo.engine.privacy import Privacy
from llmo.engine.rows import Tensors
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.hyperparameters import VIRTUAL, Adapter, Hyperparameters, Start
from llmo.tasks.task import Examples, Task


@dataclass(frozen=True)
class Problem:
    """What a row of a run trains: the engine's view of an instance.

    Attributes:
        task: Data and loss.
        weights: What training starts from: all weights [size], or LoRA factors on a frozen base.
        teacher: A larger model of the same vocabulary, or None.
        start: From scratch, or pre-trained.
        hyperparameters: To start with.
        roles: `(share of the budget, materials of the three slots)`, the first at 0; each holds until the next.
        interval: Optimizer steps in one environment step, at least 1.
        batch: Sequences in one optimizer step, at least 1.
        budget: FLOPs.
        seed: Of the replica's random streams, 0 to 2**63 - 1.
        rank: Of the LoRA factors it starts with; 0 where it starts with all weights.
        target_modules: Names of the linear layers that its adapter is on, as PEFT has them; empty for all of them.
        privacy: Budget of privacy, where training is private; else None.
        price: What the whole budget is worth, in log validation loss; 0 where what is left is worth nothing.
        size_price: Power of the relative size of the weights that a validation loss is multiplied by; 0 for none.
        work_price: The same of the relative FLOPs of a prediction.
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
    rank: int = 0
    target_modules: tuple[str, ...] = ()
    privacy: Privacy | None = None
    price: float = 0.0
    size_price: float = 0.0
    work_price: float = 0.0

    @property
    def priced(self) -> bool:
        """Whether a loss is not all that counts."""
        return bool(self.size_price or self.work_price)


@dataclass
class Sums:
    """Sums over what happened since the last evaluation; `steps` counts the updates of the weights."""

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

    def copy(self) -> Sums:
        """A copy that shares nothing that changes."""
        result = copy.copy(self)
        result.source_loss, result.source_count = self.source_loss.copy(), self.source_count.copy()
        return result


Saved = tuple[Hyperparameters, Adapter, int, float, Structure]
"""Settings, adapter, rank, validation loss and structure at a moment whose tensors a row keeps."""


@dataclass
class State:
    """Everything of one row that is not a tensor.

    Attributes:
        problem: What it trains; the weights that it started with are kept no longer.
        hyperparameters: Current settings.
        teacher_cost: FLOPs of the teacher's forward pass of one sequence; 0 without a teacher.
        adapter: What is trained now.
        rank: Rank of the adapter; 0 without one.
        cursor: Training batches drawn; never goes back.
        spent: FLOPs; never goes back.
        step: Environment steps taken.
        mixture: Sampling weights of the three slots.
        source_loss: Last known training loss of each slot; NaN for one never sampled.
        loss: Last validation loss, of an ensemble where it predicts.
        own_loss: That of the present weights alone.
        best_loss: That of the best so far: the lowest, where size and work have no price.
        priced: The last with the prices of size and work in it.
        best_priced: The lowest of those so far.
        stopped: Whether the run has ended of its own accord.
        best_state: Settings, adapter, rank and structure at the lowest; None before it.
        best_others: Of each that predicted along then: kind of adapter, structure, and share in the mean.
        teacher_loss: Validation loss of the teacher; NaN without one.
        averaged_steps: Optimizer steps in the averaged weights.
        collected: Ends of intervals in the mean of stochastic weight averaging; 0 while there is none.
        registers: What was saved by name: settings, adapter, rank, validation loss and structure.
        private_steps: Private steps taken at each noise multiplier; never goes back.
        phase_losses: Last validation loss of each phase of data that shift, and the lowest so far of those begun.
        diverged: Whether a loss or gradient was NaN or Inf; such a row trains no further.
        schedule: Sets the rate instead of the hyperparameters; None for no schedule.
        interval: Sums since the last evaluation.
        structure: Which parts of the model are there now.
        larger: Of the model that a smaller student of it learns from.
    """

    problem: Problem
    hyperparameters: Hyperparameters
    teacher_cost: float = 0.0
    adapter: Adapter = "full"
    rank: int = 0
    cursor: int = 0
    spent: float = 0.0
    step: int = 0
    mixture: NDArray[np.float64] = field(default_factory=lambda: np.full(3, 1 / 3))
    source_loss: NDArray[np.float64] = field(default_factory=lambda: np.full(3, np.nan))
    loss: float = math.inf
    own_loss: float = math.inf
    best_loss: float = math.inf
    priced: float = math.inf
    best_priced: float = math.inf
    stopped: bool = False
    best_state: tuple[Hyperparameters, Adapter, int, Structure] | None = None
    best_others: tuple[tuple[Adapter, Structure, float], ...] = ()
    teacher_loss: float = math.nan
    averaged_steps: int = 0
    collected: int = 0
    registers: dict[str, Saved] = field(default_factory=dict)
    private_steps: dict[float, int] = field(default_factory=dict)
    phase_losses: tuple[tuple[float, float], ...] = ()
    diverged: bool = False
    schedule: Schedule | None = None
    interval: Sums = field(default_factory=Sums)
    structure: Structure = WHOLE_MODEL
    larger: Structure = WHOLE_MODEL

    @property
    def share(self) -> float:
        """Share of the budget spent, 0 to 1."""
        return min(1.0, self.spent / self.problem.budget)

    @property
    def members(self) -> tuple[str, ...]:
        """Registers whose weights predict along with the present ones."""
        return () if self.hyperparameters.prediction == "alone" else tuple(sorted(self.registers))

    @property
    def validation(self) -> Examples:
        """The validation examples as the row reads them now."""
        return self.problem.task.held_out(self.problem.task.validation, self.hyperparameters)

    @property
    def program(self) -> tuple[object, ...]:
        """What its passes need that others do not.

        That is a temperature, added inputs, gradients by sequence, a size, predictions of what is read, virtual tokens.
        """
        settings = self.hyperparameters
        tempered = settings.distillation != "off" and settings.temperature > 0
        added, private = settings.perturbation in ("noise", "fgm", "pgd"), self.problem.privacy is not None
        virtual = self.adapter if self.adapter in VIRTUAL else ""
        return tempered, added, private, self.structure.removed, settings.auxiliary > 0, virtual

    @property
    def epsilon(self) -> float:
        """Epsilon that private training has spent; NaN where it is not private."""
        privacy = self.problem.privacy
        return math.nan if privacy is None else privacy.spent(self.private_steps, self.problem.batch)

    @property
    def roles(self) -> tuple[int, ...]:
        """Which material each slot holds now; the world changes with the budget spent and never goes back."""
        return self.roles_at(self.share)

    def old_at(self, share: float) -> tuple[int, ...]:
        """Materials that slots have held before and hold no longer, when a share of the budget is spent."""
        phases = [roles for since, roles in self.problem.roles if since <= share]
        return tuple(sorted({material for roles in phases for material in roles} - set(phases[-1])))

    def roles_at(self, share: float) -> tuple[int, ...]:
        """Which material each slot holds when a share of the budget is spent."""
        return [roles for since, roles in self.problem.roles if since <= share][-1]

    def rate_at(self, share: float, default_rate: float) -> float:
        """The learning rate when a share of the budget is spent; a schedule multiplies the default rate."""
        if self.schedule is not None:
            return default_rate * self.schedule(share)
        return self.hyperparameters.rate_at(share)

    @property
    def phase(self) -> int:
        """How many times the materials have changed."""
        return sum(since <= self.share for since, _ in self.problem.roles) - 1

    def note_phases(self, losses: list[float]) -> None:
        """Note the validation loss of each phase."""
        before = [best for _, best in self.phase_losses] or [math.inf] * len(losses)
        begun = range(self.phase + 1)
        self.phase_losses = tuple(
            (loss, min(loss, best) if phase in begun else math.inf)
            for phase, (loss, best) in enumerate(zip(losses, before, strict=True))
        )

    @property
    def forgotten(self) -> float:
        """Log ratio of an earlier phase's loss to its lowest, of the phase where it is largest; NaN without one."""
        earlier = self.phase_losses[: self.phase]
        logs = [math.log(loss / best) if 0 < best and loss < math.inf else math.nan for loss, best in earlier]
        return max(logs, default=math.nan)

    def charge(self, flops: float) -> None:
        """Spend some of the budget."""
        self.spent += flops
        self.interval.cost += flops

    def copy(self) -> State:
        """A copy that shares nothing that changes."""
        result = copy.copy(self)
        result.mixture, result.source_loss = self.mixture.copy(), self.source_loss.copy()
        result.interval, result.registers = self.interval.copy(), dict(self.registers)
        result.private_steps = dict(self.private_steps)
        return result


@dataclass(frozen=True)
class Snapshot:
    """One row at one moment: its tensors, and the rest."""

    tensors: Tensors
    state: State
