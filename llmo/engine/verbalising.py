"""A classification head that says the names of its classes.

Each class's row becomes the embedding of its name, the mean over the tokens: where hidden states lie near to the
embeddings of what comes next, as in language models, such a head knows the classes by their names (verbalisers,
Schick and Schuetze 2021, "Exploiting cloze questions for few-shot text classification"; here without the language
model's own head, which a classifier has lost).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmo.engine.own_data import OwnData

HEAD = "score.weight"
"""What decoders of transformers call the weight of their classification head, [C, width]."""


def verbalised(head: Tensor, table: Tensor, names: Sequence[Sequence[int]]) -> Tensor:
    """A head of the same norm that says names.

    Args:
        head: As it is, [C, width].
        table: Embeddings of all tokens, [V, width].
        names: Tokens of each class's name, C of at least one token each.
    """
    means = torch.stack([table[list(ids)].mean(0) for ids in names])
    return means * (torch.linalg.vector_norm(head) / torch.linalg.vector_norm(means).clamp(min=1e-12))


class Verbalising(OwnData):
    """N replicas of one model whose heads can say names; see `Replicas` for the arguments."""

    def can_verbalise(self, row: int) -> bool:
        """Whether a row's head can say the names of its classes, and its weights are its own."""
        prompts = self.states[row].problem.task.prompts
        if self.frozen or self.ranks is not None or self.states[row].hyperparameters.sparsity or prompts is None:
            return False
        known = HEAD in self.layout.names and bool(self.layout.embedding)
        return known and bool(prompts.names) and all(prompts.names)

    def verbalise(self, row: int) -> None:
        """Let the head say the names of its classes; what it was is kept."""
        prompts = self.states[row].problem.task.prompts
        assert prompts is not None
        parts = self.layout.unflatten(self.rows[row].weights)
        self.rows[row].hold("head", parts[HEAD].clone())
        self._set_head(row, verbalised(parts[HEAD], parts[self.layout.embedding], prompts.names))
        self.change(row, verbalised=True)

    def can_unverbalise(self, row: int) -> bool:
        """Whether the head says names, and what it was can be put back."""
        settings = self.states[row].hyperparameters
        return settings.verbalised and not settings.sparsity and self.rows[row].kept("head") is not None

    def unverbalise(self, row: int) -> None:
        """Put back the head that was there before it said names."""
        head = self.rows[row].kept("head")
        assert head is not None
        self._set_head(row, head)
        self.change(row, verbalised=False)

    def _set_head(self, row: int, head: Tensor) -> None:
        """Another head, whose moments begin anew, and all means of weights."""
        full = self.rows[row].own_full()
        for moment in (full.first, full.second):
            self.layout.unflatten(moment[0])[HEAD].zero_()
        self.layout.unflatten(full.values[0])[HEAD].copy_(head)
        if self.states[row].hyperparameters.optimizer == "schedule_free":
            self.layout.unflatten(full.first[0])[HEAD].copy_(head)
        self.average_anew(row)
        self._forget_collected(row)

    def _forget_collected(self, row: int) -> None:
        self.rows[row].hold("collected", None)
        self.states[row].collected = 0
