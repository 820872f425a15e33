"""Factors of another rank: the nearest to what they were."""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.engine.layout import Layout


def shrink(layout: Layout, row: Tensor, rank: int) -> None:
    """Bring the factors of one adapter row [Q] to a lower rank, in place: the nearest to what they were."""
    for linear in layout.factors:
        a, b = (factor[0] for factor in linear.factors(row[None]))
        _fill(a, b, *_nearest(b, a, rank))


def average_factors(layout: Layout, row: Tensor, other: Tensor, rank: int) -> None:
    """Bring the factors of one adapter row [Q] to the nearest of a rank to its mean with another, in place."""
    for linear in layout.factors:
        (a, b), (other_a, other_b) = (
            (factor[0] for factor in linear.factors(adapter[None])) for adapter in (row, other)
        )
        both = torch.cat([b, other_b], 1) / 2, torch.cat([a, other_a], 0)
        _fill(a, b, *_nearest(*both, rank))


def _fill(a: Tensor, b: Tensor, right: Tensor, left: Tensor) -> None:
    a.zero_()
    b.zero_()
    a[: len(right)], b[:, : len(right)] = right, left


def _nearest(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors A and B of the nearest matrix of a rank to b a (Eckart and Young 1936), evenly shared out."""
    # By way of QR, so that no matrix of the layer's size is taken apart.
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(rb @ ra.T)
    # A layer may be smaller than the rank.
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    return root[:, None] * (vh[:kept] @ qa.T), (qb @ u[:, :kept]) * root
