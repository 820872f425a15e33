"""`OwnData`: what a training run knows of its tokens, and sequences that its model writes itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.augment import NEIGHBOURS, Labels, Words
from llmo.engine.batches import draw_batches
from llmo.engine.generating import BEAMS, Decoding, generate, worth_keeping
from llmo.engine.intervals import left_out
from llmo.engine.weights import Weights
from llmo.hyperparameters import VIRTUAL
from llmo.tasks.cleaning import places_left

WRITTEN = 32
"""Sequences that a model writes at once, before any are dropped."""


class OwnData(Weights):
    """N replicas of one model; see `Replicas` for the arguments."""

    @property
    def embedded(self) -> bool:
        """Whether what the model reads are tokens that it embeds."""
        return self._next_batch.embedded

    def can_predict_input(self, row: int) -> bool:
        """Whether a row can predict what it reads beside its task, which is not just that, and in one process."""
        state, problem = self.states[row], self.states[row].problem
        other = self.interface.kind != "causal_lm" or problem.task.padded
        plain = problem.privacy is None and self.ranks is None and state.adapter not in VIRTUAL
        return self._next_batch.predicts_input and other and plain

    def words(self, row: int) -> Words:
        """What is known of a row's tokens."""
        task, kind = self.states[row].problem.task, self.interface.kind
        labels: Labels = "next"
        if kind == "classification":
            labels = "sequence"
        elif kind == "seq2seq":
            labels = "target"
        elif task.padded:
            labels = "token"
        # A rank has but a part of the embeddings, where they are shared out.
        near = partial(self._neighbours, row) if self.ranks is None and self.embedded else None
        pads = kind != "causal_lm"
        return Words(self.config.vocab_size, labels, near, task.codec, task.synonyms, pads)

    def _neighbours(self, row: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens whose embeddings point the way of some others' most, [m, `NEIGHBOURS`]."""
        table = torch.nn.functional.normalize(self._next_batch.embeddings(self.effective([row])[0]), dim=1)
        wanted = torch.from_numpy(ids).to(self.device)
        likeness = table[wanted] @ table.T
        likeness[torch.arange(len(ids)), wanted] = -torch.inf
        return likeness.topk(min(NEIGHBOURS, len(table) - 1), dim=1).indices.cpu().numpy()

    def can_write(self, row: int) -> bool:
        """Whether a row learns running text, has weights that were validated, and the budget pays for writing."""
        state = self.states[row]
        if self.interface.kind != "causal_lm" or state.problem.task.padded or state.best_state is None:
            return False
        price = (BEAMS + 1) * WRITTEN * self.best_cost(row)
        return self.ranks is None and self.pays(row, price + self.evaluation_cost(row))

    # Tokens

    def write(self, row: int, decoding: Decoding) -> None:
        """Let the best weights continue beginnings of training sequences, and keep what is worth it to train on.

        The passes that write and that say how likely it is are charged, as with a cache of keys and values.
        """
        state, problem = self.states[row], self.states[row].problem
        tokens = problem.task.tokens
        cursor = np.array([state.cursor])
        roles = np.array([state.roles])
        seeds = np.array([problem.seed], np.uint64)
        places = places_left(problem.task, left_out(state.hyperparameters))
        drawn, _, _ = draw_batches(problem.task, seeds, cursor, WRITTEN, state.mixture, roles, places=places)
        begun = torch.from_numpy(np.ascontiguousarray(drawn[0, :, : max(1, tokens // 8)])).to(self.device)
        weights = self.saved_weights(row, "best")[None]

        def logits(ids: Tensor) -> Tensor:
            return self._next_batch.rare.logits(weights, ids[None, :, :tokens], tokens)[0]

        ids = generate(logits, begun, tokens + 1, decoding, problem.seed, state.cursor)
        logs = logits(ids).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        kept = worth_keeping(ids, logs.mean(-1))
        self.rows[row].hold("generated", ids[torch.from_numpy(kept).to(self.device)])
        passes = (BEAMS if decoding == "beam" else 1) + 1
        state.charge(passes * WRITTEN * self.best_cost(row))
        if not state.hyperparameters.generated:
            self.change(row, generated=1)
