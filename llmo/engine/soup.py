"""Greedy soups: weights are averaged one after another as long as that validates no worse (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor


def greedy_soup(first: Tensor, loss: float, others: Iterable[Tensor], score: Callable[[Tensor], float]) -> Tensor:
    """The soup, [P].

    Args:
        first: The best weights, [P].
        loss: Their validation loss.
        others: Candidates [P], the likeliest to help first.
        score: Validation loss of weights [P].
    """
    soup, count = first, 1
    for other in others:
        trial = soup + (other - soup) / (count + 1)
        found = score(trial)
        if found <= loss:
            soup, loss, count = trial, found, count + 1
    return soup
