"""`Restructuring`: parts of a model go where they matter least, and come back without changing what it computes.

What is dropped becomes zero in a row, moments included, and is trained no more (`llmo/engine/structure.py`). What comes
back adds nothing at first, as its output weights are zero (Chen et al. 2016, "Net2Net"; Wu et al. 2024, "LLaMA Pro").
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llmo.engine.evaluation import Evaluation
from llmo.engine.executors import Batch
from llmo.engine.intervals import draw_interval
from llmo.engine.privacy import gradients_by_sequence
from llmo.engine.structure import WHOLE_MODEL, Structure
from llmo.engine.structures import Family
from llmo.hyperparameters import VIRTUAL

STEPS = 4
"""Units are dropped and come back in so many parts."""


class Restructuring(Evaluation):
    """N replicas of one model whose parts can be dropped; see `Replicas` for the arguments."""

    def can_restructure(self, row: int) -> bool:
        """Whether all weights of a row are trained, in a model whose parts are known, and nothing is private."""
        state = self.states[row]
        free = state.rank == 0 and state.hyperparameters.frozen == 0 and state.problem.privacy is None
        return free and self.structures.family is not None and self.ranks is None

    def can_grow(self, row: int) -> bool:
        """Whether parts of a row can come back: at a price, and a zero of pruned weights would stay one."""
        sparse = self.states[row].hyperparameters.sparsity
        return self.can_restructure(row) and not sparse and self.pays_as(row, WHOLE_MODEL)

    # Blocks

    def can_remove_block(self, row: int) -> bool:
        """Whether a row has more than one block, and the budget pays for trying each and for a step."""
        if not self.can_restructure(row) or len(self._blocks(row)) < 2:
            return False
        return self.pays(row, self._trials_cost(row) + self.evaluation_cost(row))

    def remove_block(self, row: int) -> None:
        """Drop the block without which the validation loss is lowest, of weights as they are now; trying is charged."""
        state, examples = self.states[row], self.states[row].validation
        state.charge(self._trials_cost(row))
        inputs, labels = examples.inputs[None].to(self.device), examples.labels[None].to(self.device)
        weights, losses = self.effective([row]), {}
        for block in self._blocks(row):
            trial = self._without_block(row, block)
            executor = self._smaller(trial, [self._smaller.parts(trial)])
            losses[block] = self._score(row, weights, inputs, labels, executor).item()
        self._drop(row, self._without_block(row, min(losses, key=losses.__getitem__)))

    def add_block(self, row: int) -> None:
        """Bring the last absent block back: a copy of the one below it, with output weights of zero."""
        structure = self.states[row].structure
        *others, block = structure.blocks
        below = [other for other in self._blocks(row) if other < block] or self._blocks(row)[:1]
        grown = replace(structure, blocks=tuple(others))
        full = self.rows[row].own_full().values[0]
        copied = self.structures.block_parts(below[-1], grown)
        for name, places in self.structures.block_parts(block, grown).items():
            full[places] = 0.0 if name in self._family.outputs else full[copied[name]]
        self._grown(row, grown)

    def _blocks(self, row: int) -> list[int]:
        """Blocks that a row has."""
        return [block for block in range(self.structures.blocks) if block not in self.states[row].structure.blocks]

    def _without_block(self, row: int, block: int) -> Structure:
        structure = self.states[row].structure
        return replace(structure, blocks=tuple(sorted((*structure.blocks, block))))

    def _trials_cost(self, row: int) -> float:
        """FLOPs of a validation pass without each of the blocks."""
        problem, blocks = self.states[row].problem, self._blocks(row)
        forward = self.saved_cost(row, self._without_block(row, blocks[0]))
        return len(blocks) * len(problem.task.validation.inputs) * forward

    # Units

    def can_prune_units(self, row: int) -> bool:
        """Whether at least a quarter of the units is left where one of them goes."""
        units, absent = self.structures.units, self.states[row].structure.removed[1]
        return self.can_restructure(row) and units >= STEPS and units - absent >= 2 * (units // STEPS)

    def prune_units(self, row: int) -> None:
        """Drop a quarter of each block's feed-forward units, those with the least sum of absolute weights."""
        structures, values = self.structures, self.rows[row].weights
        absent: list[tuple[int, ...]] = []
        for block in range(structures.blocks):
            here = self.states[row].structure.units
            gone = list(here[block]) if here else []
            sizes = self._shared_out(values, block).abs().sum(1)
            absent.append(_dropped(sizes, gone, structures.units // STEPS))
        self._drop(row, replace(self.states[row].structure, units=tuple(absent)))

    def widen_units(self, row: int) -> None:
        """Bring a quarter of the units back: random weights in, of the others' size, and weights of zero out."""
        structure, full = self.states[row].structure, self.rows[row].own_full().values[0]
        count = self.structures.units // STEPS
        left = tuple(tuple(gone[count:]) for gone in structure.units)
        grown = replace(structure, units=left if any(left) else ())
        generator = torch.Generator().manual_seed(self._seed(row))
        family = self._family
        for block in self._blocks(row):
            old, new = (self.structures.block_parts(block, one) for one in (structure, grown))
            for name in [name for name in new if name in family.units]:
                fresh = new[name][~torch.isin(new[name], old[name])]
                # A bias, or what leads out, is zero.
                random = torch.zeros(len(fresh))
                if name not in family.outputs and new[name].dim() > 1:
                    random = torch.randn(len(fresh), generator=generator) * full[old[name]].cpu().std()
                full[fresh] = random.to(full)
        self._grown(row, grown)

    def _shared_out(self, values: Tensor, block: int) -> Tensor:
        """Weights of each of a block's units, [units, weights of one], in a row [P]."""
        whole = self.structures.block_parts(block, WHOLE_MODEL)
        parts = [values[whole[name]].movedim(dim, 0) for name, dim in self._family.units.items() if name in whole]
        return torch.cat([part.reshape(self.structures.units, -1) for part in parts], 1)

    # Heads

    def can_prune_heads(self, row: int) -> bool:
        """Whether each block can have fewer heads, and the budget pays for finding out which matter least."""
        if not self.can_restructure(row) or not self.structures.fewer_heads(self._heads(row)):
            return False
        return self.pays(row, self._importance_cost(row) + self.evaluation_cost(row))

    def prune_heads(self, row: int) -> None:
        """Drop the heads of each block that the loss of the next batch's sequences depends on least; that is charged.

        They are as few as transformers allows: the number of heads must divide the width.
        """
        state, here = self.states[row], self.states[row].structure.heads
        state.charge(self._importance_cost(row))
        importance, count = self._importance(row), self._heads(row) - self.structures.fewer_heads(self._heads(row))
        absent = [
            _dropped(sizes, list(here[block]) if here else [], count) for block, sizes in enumerate(importance.unbind())
        ]
        self._drop(row, replace(state.structure, heads=tuple(absent)))

    def _heads(self, row: int) -> int:
        return self.structures.heads - self.states[row].structure.removed[2]

    def _importance_cost(self, row: int) -> float:
        state = self.states[row]
        return state.problem.batch * self.cost(0, state.problem, structure=state.structure).train

    def _importance(self, row: int) -> Tensor:
        """How much a loss changes with each head's part in it: mean of |dL / d part| over sequences, [L, heads].

        The derivative is the sum of a head's output weights times their gradient.
        """
        state, structures, family = self.states[row], self.structures, self._family
        name = next(name for name in family.heads if name in family.outputs)
        drawn = draw_interval(row, state, 1, 0.0, self.default_rate(row), self.words(row)).to(self.device)
        inputs, labels = (part[:, : state.problem.batch] for part in (drawn.inputs, drawn.labels))
        task, scale = state.problem.task, None
        if task.padded:
            scale = labels[0].numel() / task.counts(labels).sum(1).clamp(min=1)
        batch, weights = Batch(inputs, labels, type(task).loss, scale=scale), self.effective([row])
        _, gradients = gradients_by_sequence(self._next_batch.rare, weights, batch)
        found = []
        for block in range(structures.blocks):
            places = structures.block_parts(block, WHOLE_MODEL)[name].movedim(family.heads[name], 0)
            change = (weights * gradients)[:, places].reshape(len(gradients), structures.heads, -1).sum(-1)
            found.append(change.abs().mean(0))
        return torch.stack(found)

    # A student

    def can_teach_smaller(self, row: int) -> bool:
        """Whether the model has been validated, without virtual tokens at its best, and can become smaller."""
        best = self.states[row].best_state
        if best is None or best[1] in VIRTUAL:
            return False
        return self.can_prune_units(row) or self.can_remove_block(row)

    def become_student(self, row: int) -> None:
        """Become a student of the best weights so far, with a block less and half of the units, where that can be."""
        state = self.states[row]
        self.rows[row].hold("larger", self.delivered(row)[0])
        state.larger = self.saved_structure(row, "best")
        if self.can_remove_block(row):
            self.remove_block(row)
        for _ in range(STEPS // 2):
            if self.can_prune_units(row):
                self.prune_units(row)
        self.change(row, distillation="larger")

    # What all have in common

    @property
    def _family(self) -> Family:
        family = self.structures.family
        assert family is not None
        return family

    def _drop(self, row: int, structure: Structure) -> None:
        gone = ~self.present(structure)
        full = self.rows[row].own_full()
        for tensor in (full.values, full.first, full.second):
            tensor[0].masked_fill_(gone, 0.0)
        self._restructured(row, structure)

    def _grown(self, row: int, structure: Structure) -> None:
        self._begin_optimizer(row)
        self._restructured(row, structure)

    def _restructured(self, row: int, structure: Structure) -> None:
        """Have another structure; the average starts again from here."""
        self._take_structure(row, structure)
        self.average_anew(row)


def _dropped(sizes: Tensor, gone: list[int], count: int) -> tuple[int, ...]:
    """What is gone when the `count` smallest of sizes go besides, the first of those that are equal."""
    sizes = sizes.cpu().clone()
    sizes[gone] = torch.inf
    order = torch.sort(sizes, stable=True).indices[:count]
    return tuple(sorted((*gone, *order.tolist())))
