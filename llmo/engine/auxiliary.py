"""An auxiliary task that shares the weights: what is read is predicted too, by the input embedding as the head.

It is what GPT did in fine-tuning, with a weight of 0.5 (Radford et al. 2018, "Improving language understanding by
generative pre-training", section 3.2). A language model predicts what it is asked with the head that it has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmo.engine.embedding import input_embedding
from llmo.hyperparameters import Hyperparameters
from llmo.kinds import IGNORED, PADDING, Kind, sees_ahead


class LastHidden:
    """Takes the hidden states behind the last block out of a model's forward pass.

    Args:
        model: The model; what lies below its head gets the hook.

    Attributes:
        wanted: Whether the next pass is asked for them. Set it just before.
    """

    def __init__(self, model: Any) -> None:
        self.wanted = False
        self._states: list[Tensor] = []
        below = getattr(model, "base_model", model)
        if isinstance(below, nn.Module) and below is not model:
            below.register_forward_hook(self._hook)

    def _hook(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self.wanted:
            self._states = [output.last_hidden_state.float()]

    def taken(self) -> list[Tensor]:
        """The states [B, T, width] of the last pass where they were wanted, else none; only once."""
        states, self._states = self._states, []
        return states


def can_predict_input(model: Any, kind: Kind) -> bool:
    """Whether a model can predict what it reads: one token after the other, with a table as wide as its states."""
    table = getattr(input_embedding(model), "weight", None)
    if table is None or kind == "seq2seq" or sees_ahead(model.config):
        return False
    return kind == "causal_lm" or table.shape[-1] == model.config.hidden_size


def what_is_read(inputs: Tensor, labels: Tensor, kind: Kind) -> Tensor:
    """Labels [..., T - 1] for predicting the next token of what is read, `IGNORED` where nothing is.

    Args:
        inputs: Token ids [..., T].
        labels: Of the main task, [..., P]. Those of a language model are not asked twice, nor what stands behind them.
        kind: Of the model.
    """
    here, following = inputs[..., :-1], inputs[..., 1:]
    wanted = (here != PADDING) & (following != PADDING)
    if kind == "causal_lm":
        counts = labels != IGNORED
        wanted &= (~counts & (counts.flip(-1).cumsum(-1).flip(-1) > 0))[..., :-1]
    return torch.where(wanted, following, IGNORED)


def weight_on_mean(settings: Hyperparameters, read: Tensor) -> float:
    """Factor on the mean over all positions of `read` [B, T - 1] that gives that over those that count, weighted."""
    return settings.level("auxiliary") * read.numel() / max(1, int((read != IGNORED).sum()))


def embeddings(model: Any) -> Tensor:
    """Embeddings of all tokens, [V, width]."""
    table: Tensor = model.get_input_embeddings().weight
    return table


def read_logits(hidden: Tensor, table: Tensor) -> Tensor:
    """Logits [n, B, T - 1, V] of the next tokens.

    Args:
        hidden: Last hidden states, [n, B, T, width].
        table: Embeddings of all tokens, of each replica [n, V, width] or of all [V, width].
    """
    flat = hidden[:, :, :-1].flatten(1, 2) @ table.transpose(-1, -2)
    return flat.view(*hidden.shape[:2], -1, table.shape[-2])


def head_cost(settings: Hyperparameters, config: Any, tokens: int, kind: Kind, whole: bool) -> float:
    """FLOPs of the additional head for one sequence, forward and backward.

    Args:
        settings: Of the run.
        config: Configuration of the model.
        tokens: Length of the sequence.
        kind: Of the model; a language model's own head has been charged.
        whole: Whether all weights are trained, not an adapter.
    """
    if not settings.auxiliary or kind == "causal_lm":
        return 0.0
    # One product forward, one for the states' gradient, and one for the embedding's where that is trained.
    products = 3 if whole and not settings.frozen else 2
    return products * 2.0 * (tokens - 1) * config.hidden_size * config.vocab_size
