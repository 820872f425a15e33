"""`Pruning`: weights that are zero and stay so, and how large what is left is."""

from __future__ import annotations

from torch import Tensor

from llmo.engine.compressing import prune, pruned, relative_size
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.engine.verbalising import Verbalising
from llmo.hyperparameters import Hyperparameters


class Pruning(Verbalising):
    """N replicas of one model; see `Replicas` for the arguments."""

    def prune_more(self, row: int) -> None:
        """Set more of the smallest weights to zero, where they stay."""
        self.change(row, sparsity=self.states[row].hyperparameters.sparsity + 1)
        self._prune(row)

    def _prune(self, row: int) -> None:
        full = self.rows[row].own_full()
        matrices = self._matrices_of(self.states[row].structure)
        prune(full.values[0], matrices, self.states[row].hyperparameters.level("sparsity"))
        if self.states[row].hyperparameters.optimizer == "schedule_free":
            # Its fast sequence would bring back what was pruned.
            full.first[0].masked_fill_(pruned(full.values[0], self._matrices), 0.0)

    def size(self, row: int) -> float:
        """Bytes of all weights that predict over those of the whole model in float32; adapters are not counted."""
        state, here = self.states[row], self.rows[row]
        saved = [(name, state.registers[name]) for name in state.members]
        members = [(here.saved(name)[0], settings, structure) for name, (settings, _, _, _, structure) in saved]
        present = here.weights, state.hyperparameters, state.structure
        return sum(self._relative_size(*one) for one in (present, *members))

    def _relative_size(self, weights: Tensor, settings: Hyperparameters, structure: Structure) -> float:
        there = self._size(structure)
        if not (settings.sparsity or settings.quantised):
            return there / self.parameters
        return relative_size(self.layout, weights, self._matrices_of(structure), settings.quantised, there)

    def _matrices_of(self, structure: Structure) -> Tensor:
        """Which places of a row belong to matrices that are there, bool [P]."""
        return self._matrices if structure == WHOLE_MODEL else self._matrices & self.present(structure)
