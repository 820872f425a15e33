"""`Prices`: what everything that is done to a run costs, in FLOPs, and what its budget still pays."""

from __future__ import annotations

from collections.abc import Sequence

from llmo.budget import Cost, input_gradient_cost, sequence_cost
from llmo.engine.auxiliary import head_cost
from llmo.engine.perturbing import PASSES
from llmo.engine.replicas import Replicas
from llmo.engine.selecting import candidates
from llmo.engine.state import Problem
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.hyperparameters import VIRTUAL, VIRTUAL_TOKENS, Adapter


class Prices(Replicas):
    """N replicas of one model; see `Replicas` for the arguments."""

    def cost(
        self,
        rank: int,
        problem: Problem,
        adapter: Adapter = "lora",
        frozen: int = 0,
        structure: Structure = WHOLE_MODEL,
    ) -> Cost:
        """FLOPs of one sequence of a problem with an adapter of some rank (0: none); see `sequence_cost`."""
        task, modules = problem.task, problem.target_modules
        key = rank, task.tokens, task.positions, modules, adapter, frozen, structure.removed
        if key not in self._costs:
            config, kind = self.structures.config(structure), self.interface.kind
            self._costs[key] = sequence_cost(config, task.tokens, rank, modules, kind, task.positions, adapter, frozen)
        return self._costs[key]

    def saved_cost(self, row: int, structure: Structure, adapter: Adapter = "full") -> float:
        """FLOPs of a forward pass of one sequence through effective weights: adapters but virtual tokens are merged."""
        state = self.states[row]
        if adapter in VIRTUAL:
            return self.cost(1, state.problem, adapter).forward
        return self.cost(state.rank if self.frozen else 0, state.problem, structure=structure).forward

    def work(self, row: int) -> float:
        """FLOPs of a forward pass through all that predicts over those of the whole model; adapters are merged."""
        state = self.states[row]
        saved = [
            (structure, adapter) for _, adapter, _, _, structure in (state.registers[name] for name in state.members)
        ]
        costs = [self.saved_cost(row, *one) for one in ((state.structure, state.adapter), *saved)]
        return sum(costs) / self.saved_cost(row, WHOLE_MODEL)

    def best_cost(self, row: int) -> float:
        """The same of the weights that a row delivers."""
        best = self.states[row].best_state
        adapter = self.states[row].adapter if best is None else best[1]
        return self.saved_cost(row, self.saved_structure(row, "best"), adapter)

    def step_cost(self, row: int) -> float:
        """FLOPs of one batch of a row as it is set now."""
        state = self.states[row]
        settings, problem = state.hyperparameters, state.problem
        trained = self.cost(state.rank, problem, state.adapter, self._frozen_parameters(row), state.structure)
        own, best = self.saved_cost(row, state.structure, state.adapter), self.best_cost(row)
        soft = {
            "off": 0.0,
            "averaged": own,
            "best": best,
            "teacher": state.teacher_cost,
            "ensemble": own + best + state.teacher_cost,
            "larger": self.saved_cost(row, state.larger),
        }[settings.distillation]
        harder = 0.0
        if passes := PASSES[settings.perturbation]:
            task, config = problem.task, self.structures.config(state.structure)
            tokens = task.tokens + (VIRTUAL_TOKENS if state.adapter == "prompt" else 0)
            harder = passes * input_gradient_cost(config, tokens, self.interface.kind, task.positions)
            if settings.perturbation == "swaps":
                # Every gradient in the inputs is multiplied with every embedding.
                harder += 2.0 * task.tokens * self.config.hidden_size * self.config.vocab_size
        reference = state.teacher_cost if settings.selection == "clean" and state.teacher_cost else own
        looked_at = 0.0 if settings.selection == "off" else candidates(settings.selection) * reference
        labelled = best if settings.pseudo_labels else 0.0
        whole = not (self.frozen or state.rank)
        read = head_cost(settings, self.config, problem.task.tokens, self.interface.kind, whole)
        return problem.batch * (trained.train + soft + harder + looked_at + labelled + read)

    def evaluation_cost(self, row: int, members: Sequence[str] | None = None) -> float:
        """FLOPs of one validation pass of a row.

        Args:
            row: Which.
            members: Registers that predict along; None for those that do now.
        """
        state = self.states[row]
        examples = len(state.problem.task.validation.inputs)
        saved = [state.registers[name] for name in (state.members if members is None else members)]
        if not saved:
            return examples * self.cost(state.rank, state.problem, state.adapter, 0, state.structure).forward
        # Together they run as whole models, absent parts as zeros.
        kinds = [(state.rank, state.adapter), *((rank, adapter) for _, adapter, rank, *_ in saved)]
        return examples * sum(self.cost(rank, state.problem, adapter).forward for rank, adapter in kinds)

    def affordable_steps(self, row: int) -> int:
        """Batches of the next interval: all, or what the budgets still pay, that of FLOPs with a validation pass."""
        state = self.states[row]
        if state.stopped:
            return 0
        left = state.problem.budget - state.spent - self.evaluation_cost(row)
        steps = max(0, min(state.problem.interval, int(left / self.step_cost(row))))
        privacy = state.problem.privacy
        if privacy is None:
            return steps
        noise = state.hyperparameters.level("noise")
        return privacy.affordable(state.private_steps, noise, state.problem.batch, steps)

    def pays(self, row: int, flops: float) -> bool:
        """Whether the budget pays for some FLOPs and a step."""
        state = self.states[row]
        return flops + self.step_cost(row) <= state.problem.budget - state.spent

    def pays_as(self, row: int, structure: Structure) -> bool:
        """Whether the budget pays for validating a row, all of whose weights are trained, with another structure."""
        state = self.states[row]
        if structure == state.structure or state.members:
            return True
        forward = self.cost(0, state.problem, structure=structure).forward
        return len(state.problem.task.validation.inputs) * forward <= state.problem.budget - state.spent
