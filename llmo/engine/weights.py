"""`Weights`: what training runs compute with, and what they deliver: weights with adapters merged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmo.engine.adapter_kinds import KINDS
from llmo.engine.prices import Prices
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.hyperparameters import VIRTUAL, Adapter


class Weights(Prices):
    """N replicas of one model; see `Replicas` for the arguments."""

    def has_own_adapter(self, row: int) -> bool:
        """Whether a row trains LoRA factors on weights of its own."""
        state = self.states[row]
        return state.rank > 0 and not self.frozen and state.adapter not in VIRTUAL

    def effective(self, rows: Sequence[int]) -> Tensor:
        """What the executor runs on, [len(rows), P]: weights with adapters merged, or the factors on a frozen base.

        To be read only: a single row's may be the row itself.
        """
        parts = [
            self._merged(here.weights, here.factors, state.adapter, state.structure)
            for here, state in ((self.rows[row], self.states[row]) for row in rows)
        ]
        return torch.stack(parts) if len(parts) > 1 else parts[0][None]

    def _merged(self, weights: Tensor, factors: Tensor | None, adapter: Adapter, structure: Structure) -> Tensor:
        if factors is None:
            return weights
        merged = KINDS[adapter].merge(self.layout, weights[None].clone(), factors[None])[0]
        # Factors reach what is absent too.
        return merged if structure == WHOLE_MODEL else merged * self.present(structure)

    def present(self, structure: Structure) -> Tensor:
        """Which places of a row are there, bool [P]."""
        return self.structures.present(structure).to(self.device)

    def average_anew(self, row: int) -> None:
        """Begin the running average again, from the effective weights as they are."""
        self.rows[row].own_average()[0] = self.effective([row])[0]
        self.states[row].averaged_steps = 0

    def delivered(self, row: int) -> Tensor:
        """What a row delivers, [m, P]: the best by validation, an adapter of its own merged; the first before that.

        Of an ensemble the weights that were trained then come first; of one model m is 1.
        """
        here, others = self.rows[row], self.states[row].best_others
        saved = [
            self._merged(*here.saved(f"best.{place}"), adapter, structure)
            for place, (adapter, structure, _) in enumerate(others)
        ]
        return torch.stack([self.saved_weights(row, "best"), *saved])

    def saved_weights(self, row: int, name: str) -> Tensor:
        """Effective weights [P] that were saved under a name, or that the best validation had (`best`)."""
        state = self.states[row]
        adapter, structure = state.adapter, self.saved_structure(row, name)
        if name != "best":
            adapter = state.registers[name][1]
        elif state.best_state is not None:
            adapter = state.best_state[1]
        return self._merged(*self.rows[row].saved(name), adapter, structure)
