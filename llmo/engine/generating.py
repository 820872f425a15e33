"""Self-training data: a language model continues beginnings, and keeps what it finds likely and what is not the same.

Ways to continue are greedy, the k likeliest (Fan et al. 2018), the nucleus (Holtzman et al. 2020) and beam search. All
random numbers are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.streams import GENERATE, uniform

Decoding = Literal["greedy", "top_k", "top_p", "beam"]
Logits = Callable[[Tensor], Tensor]
"""Token ids [B, T] to logits [B, T, V]."""

TOP_K, TOP_P, BEAMS = 20, 0.9, 3
KEPT = 0.5
"""Share of the continuations that are kept, the likelier ones."""
LEAST_DISTINCT = 0.4
"""Least share of a sequence's pairs of tokens that differ from each other: what repeats itself teaches nothing."""


def generate(logits: Logits, beginnings: Tensor, tokens: int, decoding: Decoding, seed: int, cursor: int) -> Tensor:
    """Continue beginnings [B, S] to sequences [B, tokens].

    Args:
        logits: The model.
        beginnings: Token ids.
        tokens: Length of the sequences.
        decoding: How a next token is chosen.
        seed: Of the random numbers.
        cursor: Their counter.
    """
    count, begun = beginnings.shape
    if decoding == "beam":
        return torch.stack([_beam(logits, row, tokens) for row in beginnings])
    ids = torch.zeros(count, tokens, dtype=torch.long, device=beginnings.device)
    ids[:, :begun] = beginnings
    u = uniform(np.array([seed], np.uint64), np.array([cursor]), GENERATE, count * tokens).reshape(count, tokens)
    for place in range(begun, tokens):
        # What stands behind a place is hidden from it.
        chances = logits(ids)[:, place - 1].softmax(-1)
        ids[:, place] = _chosen(chances, decoding, torch.from_numpy(u[:, place]).to(chances))
    return ids


def _chosen(chances: Tensor, decoding: Decoding, u: Tensor) -> Tensor:
    """Next tokens, [B], of probabilities [B, V] and uniform numbers [B]."""
    if decoding == "greedy":
        return chances.argmax(-1)
    ordered, tokens = torch.sort(chances, dim=-1, descending=True, stable=True)
    if decoding == "top_k":
        kept = torch.arange(ordered.shape[-1], device=ordered.device) < TOP_K
    else:
        # The fewest tokens that hold so much together.
        kept = ordered.cumsum(-1) - ordered < TOP_P
    ordered = torch.where(kept, ordered, 0.0)
    within = ordered.cumsum(-1) / ordered.sum(-1, keepdim=True)
    place = (within <= u[:, None]).sum(-1).clamp(max=ordered.shape[-1] - 1)
    return tokens.gather(-1, place[:, None])[:, 0]


def _beam(logits: Logits, beginning: Tensor, tokens: int) -> Tensor:
    """The likeliest continuation that `BEAMS` at a time find, [tokens]."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=beginning.device)
    ids[0, : len(beginning)] = beginning
    scores = torch.zeros(1, device=beginning.device)
    for place in range(len(beginning), tokens):
        logs = logits(ids)[:, place - 1].log_softmax(-1)
        totals = (scores[:, None] + logs).flatten()
        scores, best = totals.topk(min(BEAMS, len(totals)))
        vocabulary = logs.shape[-1]
        ids = ids[best // vocabulary].clone()
        ids[:, place] = best % vocabulary
    return ids[scores.argmax()]


def worth_keeping(ids: Tensor, likelihood: Tensor) -> NDArray[np.int64]:
    """Places of the sequences [B, T] that are kept, in their order: never none.

    Of the same ones the first counts, and what repeats itself counts only where everything does; of the rest the
    likelier share is kept.

    Args:
        ids: Token ids.
        likelihood: Mean log-likelihood of each, [B].
    """
    rows = ids.cpu().numpy()
    _, first = np.unique(rows, axis=0, return_index=True)
    places = np.sort(first)
    lively = np.array([_distinct(rows[place]) >= LEAST_DISTINCT for place in places])
    if lively.any():
        places = places[lively]
    count = max(1, round(KEPT * len(places)))
    order = np.argsort(-likelihood.cpu().numpy()[places], kind="stable")
    return np.sort(places[order[:count]])


def _distinct(row: NDArray[np.int64]) -> float:
    """Share of a sequence's pairs of tokens that differ from each other."""
    pairs = set(zip(row[:-1].tolist(), row[1:].tolist()))
    return len(pairs) / (len(row) - 1)
