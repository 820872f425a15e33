"""`Changes`: what can be done to one training run between its optimizer steps, by actions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llmo.engine.adapter_kinds import KINDS
from llmo.engine.adapters import adapted, grow
from llmo.engine.compressing import pruned, quantise
from llmo.engine.layout import MAX_RANK
from llmo.engine.low_rank import average_factors
from llmo.engine.other_optimizers import begin
from llmo.engine.pruning import Pruning
from llmo.engine.structure import Structure
from llmo.errors import LlmoError
from llmo.hyperparameters import VIRTUAL, Adapter, Hyperparameters, Optimizer

FRESH_RANK = 4


class Changes(Pruning):
    """N replicas of one model that can be changed; see `Replicas` for the arguments."""

    # The optimizer and the adapter

    def change_optimizer(self, row: int, optimizer: Optimizer) -> None:
        """Train on with another optimizer, which begins anew, at the same rate relative to its default."""
        relative = self.relative_rate(row)
        self.change(row, optimizer=optimizer)
        self.change(row, learning_rate=relative * self.default_rate(row))
        self._begin_optimizer(row)

    def fresh_adapter(self, row: int, adapter: Adapter = "lora") -> None:
        """Freeze the weights and train a fresh adapter, of rank `FRESH_RANK`; one in place is merged first.

        Virtual tokens cannot be merged: they go.
        """
        self.merge_adapter(row)
        self.release(row)
        self.change(row, frozen=0)
        self._keep_relative_rate(row, adapter)
        state, here = self.states[row], self.rows[row]
        if self.frozen:
            self._grow(row, FRESH_RANK)
        elif adapter in VIRTUAL:
            assert self._virtual is not None
            self._virtual.fronted.begin(here.own_full().values[0], adapter, self._seed(row))
            state.rank = 1
            self._begin_anew(row)
        else:
            moments, weights = here.own_lora(), here.weights
            KINDS[adapter].begin(self.layout, weights, moments.values[0], FRESH_RANK, self._seed(row))
            state.rank = FRESH_RANK if KINDS[adapter].ranked else 1
        if self._optimizer(row) == "schedule_free":
            self._begin_optimizer(row)

    def freeze(self, row: int, layers: int) -> None:
        """Stop training so many of the lowest layers: the embeddings are the first, then the blocks."""
        self.change(row, frozen=layers)
        if self._optimizer(row) == "schedule_free":
            # Elsewhere its gradients would be taken at a point that frozen layers never reach.
            self._begin_optimizer(row)

    def grow_adapter(self, row: int) -> None:
        """Double the adapter's rank; what the model computes does not change."""
        self._grow(row, min(MAX_RANK, 2 * self.states[row].rank))

    def shrink_adapter(self, row: int) -> None:
        """Halve the adapter's rank, keeping as much of what it has learned as can be; AdaLoRA's over all layers."""
        state, here = self.states[row], self.rows[row]
        moments = here.own_full() if self.frozen else here.own_lora()
        state.rank //= 2
        KINDS[state.adapter].shrink(self.layout, moments.values[0], state.rank)
        self._begin_optimizer(row)

    def merge_adapter(self, row: int) -> None:
        """Merge an adapter into the weights and train all of them; nothing happens without one, virtual tokens go."""
        state = self.states[row]
        if not state.rank:
            return
        if state.adapter in VIRTUAL:
            self._drop_virtual(row)
            return
        merged, full = self.effective([row])[0], self.rows[row].own_full()
        self.rows[row].drop_adapter()
        if state.hyperparameters.sparsity:
            # An adapter fills in what was pruned.
            merged = merged.masked_fill(pruned(full.values[0], self._matrices), 0.0)
        full.values[0] = merged
        begin(full, 0, self._optimizer(row))
        self._keep_relative_rate(row, "full")
        state.rank = 0

    def _drop_virtual(self, row: int) -> None:
        """Train all weights again, as they were before there were virtual tokens."""
        self.rows[row].own_full().values[0, self.layout.virtual :] = 0
        self._keep_relative_rate(row, "full")
        self.states[row].rank = 0
        self._begin_anew(row)

    def _begin_anew(self, row: int) -> None:
        """Forget moments and averages that were there with other virtual tokens, or none."""
        self._begin_optimizer(row)
        self.average_anew(row)

    def _grow(self, row: int, rank: int) -> None:
        state, seed = self.states[row], self._seed(row)
        factors = (self.rows[row].own_full() if self.frozen else self.rows[row].own_lora()).values[0]
        linears = adapted(self.layout.factors, factors) if state.rank else self.layout.factors
        grow(linears, factors, state.rank, rank, seed)
        state.rank = rank
        if self._optimizer(row) == "schedule_free":
            self._begin_optimizer(row)

    def _seed(self, row: int) -> int:
        """Of what is random in an adapter that begins now."""
        state = self.states[row]
        return (state.problem.seed * 1_000_003 + state.cursor) % 2**63

    def _keep_relative_rate(self, row: int, adapter: Adapter) -> None:
        state = self.states[row]
        relative = self.relative_rate(row)
        state.adapter = adapter
        self.change(row, learning_rate=relative * self.default_rate(row))

    def _begin_optimizer(self, row: int) -> None:
        """Forget the moments of what is trained."""
        here = self.rows[row]
        begin(here.own_lora() if self.has_own_adapter(row) else here.own_full(), 0, self._optimizer(row))

    def _optimizer(self, row: int) -> Optimizer:
        return self.states[row].hyperparameters.optimizer

    def quantise(self, row: int) -> None:
        """Round the linear layers to eight bits and train a LoRA adapter on them from now on."""
        quantise(self.layout, self.rows[row].own_full().values[0])
        self.fresh_adapter(row)
        self.change(row, quantised=True)

    # What a row goes back to

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
        settings, state.adapter, state.rank, structure = state.best_state
        self._take_settings(row, settings, structure)

    def save(self, row: int, name: str) -> None:
        """Keep weights, optimizer, settings and their own validation loss in a register."""
        state = self.states[row]
        self.rows[row].save(name)
        state.registers[name] = (state.hyperparameters, state.adapter, state.rank, state.own_loss, state.structure)

    def load_saved(self, row: int, name: str) -> None:
        """Go back to a register; as with `load_best`, budget, cursor, world and mixture move on."""
        state = self.states[row]
        settings, state.adapter, state.rank, _, structure = state.registers[name]
        self.rows[row].load(name)
        self._take_settings(row, settings, structure)

    def _take_settings(self, row: int, settings: Hyperparameters, structure: Structure) -> None:
        state = self.states[row]
        self._take_structure(row, structure)
        anchored = settings.anchored and self.rows[row].anchored is not None
        now = state.hyperparameters
        if settings.verbalised:
            # The head that is kept may be another's than that which these weights said names instead of.
            self.rows[row].hold("head", None)
        if settings.verbalised != now.verbalised:
            self._forget_collected(row)
        stays = {"mixing": now.mixing, "prediction": now.prediction, "anchored": anchored}
        self.change(row, **{**vars(settings), **stays})
        self.average_anew(row)

    def _take_structure(self, row: int, structure: Structure) -> None:
        """Have other parts; a mean of weights with those that were there before ends."""
        state = self.states[row]
        if structure == state.structure:
            return
        state.structure = structure
        self._forget_collected(row)

    def holds(self, row: int, name: str) -> bool:
        """Whether a register holds a row as it is now."""
        state = self.states[row]
        known, now = state.registers.get(name), state.hyperparameters
        if known is None or not self.rows[row].holds(name):
            return False
        # The mixture and who predicts stay as they are, and an anchor that is gone does not come back.
        return replace(known[0], mixing=now.mixing, prediction=now.prediction, anchored=now.anchored) == now

    def swap_saved(self, row: int, name: str) -> None:
        """Go back to a register, which then holds what was here."""
        self.save(row, "held")
        self.load_saved(row, name)
        self.rows[row].rename("held", name)
        registers = self.states[row].registers
        registers[name] = registers.pop("held")

    def stop(self, row: int) -> None:
        """End the run; what is left of the budget stays unspent."""
        self.states[row].stopped = True

    def can_anchor(self, row: int) -> bool:
        """Whether weights can be held near to what they are now, and are not held there already."""
        here, settings = self.rows[row], self.states[row].hyperparameters
        return self.states[row].rank == 0 and self.ranks is None and not (settings.anchored and here.is_anchor)

    def anchor(self, row: int) -> None:
        """Hold weights near to what they are now."""
        self.rows[row].anchor()
        self.change(row, anchored=True)

    def release(self, row: int) -> None:
        """Hold weights nowhere."""
        self.rows[row].hold("anchor", None)
        self.change(row, anchored=False)

    # Averages

    def load_averaged(self, row: int) -> None:
        """Set the effective weights to the running average over about two intervals; an adapter stays on."""
        self._set_weights(row, self.rows[row].averaged)

    def collect(self, row: int) -> None:
        """Take the effective weights into the mean of stochastic weight averaging (Izmailov et al. 2018)."""
        state, here = self.states[row], self.rows[row]
        now, mean = self.effective([row])[0], here.kept("collected")
        state.collected += 1
        here.hold("collected", now.clone() if mean is None else mean + (now - mean) / state.collected)

    def load_collected(self, row: int) -> None:
        """Set the effective weights to the mean that was collected, which ends with it."""
        mean = self.rows[row].kept("collected")
        assert mean is not None
        self._set_weights(row, mean)
        self._forget_collected(row)

    def mixes(self, row: int) -> bool:
        """Whether weights can be averaged in a row: those that an adapter multiplies cannot, nor those on a grid."""
        state = self.states[row]
        return state.adapter in ("full", "lora", "adalora") and not state.hyperparameters.quantised

    def can_average_adapters(self, row: int) -> bool:
        """Whether a LoRA adapter and another one, that of the best validation, are on the same weights."""
        state, here = self.states[row], self.rows[row]
        if state.best_state is None or self.frozen or not here.on_best or here.best_factors is None:
            return False
        now = state.adapter, state.rank, state.structure
        same = state.best_state[1:] == now and state.adapter == "lora"
        return same and here.factors is not None and not torch.equal(here.factors, here.best_factors)

    def average_adapters(self, row: int) -> None:
        """Give the adapter half of its weight and half of that of the best validation's, at the same rank."""
        other = self.rows[row].best_factors
        assert other is not None
        average_factors(self.layout, self.rows[row].own_lora().values[0], other.clone(), self.states[row].rank)
        self._begin_optimizer(row)

    def _set_weights(self, row: int, effective: Tensor) -> None:
        """Set the weights so that the effective ones, an adapter put in, are some others [P]."""
        here = self.rows[row]
        adapter = self.effective([row])[0] - here.weights
        full = here.own_full()
        full.values[0] = effective - adapter
        if self.states[row].hyperparameters.sparsity:
            self._prune(row)
        if self._optimizer(row) == "schedule_free" and not self.has_own_adapter(row):
            full.first[0] = full.values[0]
