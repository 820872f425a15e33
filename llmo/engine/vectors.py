"""Norms and inner products of rows: the one thing about a row that its shards on several ranks do not know apart."""

from __future__ import annotations

import torch
from torch import Tensor


class Whole:
    """Of vectors that lie here as a whole."""

    def total(self, part: Tensor) -> Tensor:
        """A sum, from what this process has of it."""
        return part

    def norm(self, a: Tensor) -> Tensor:
        """Norm of a vector [D]."""
        return torch.linalg.vector_norm(a)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner product of two vectors [D]."""
        return torch.dot(a, b)


WHOLE = Whole()
