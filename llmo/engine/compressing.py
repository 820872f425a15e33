"""Smaller weights: pruned by magnitude (Han et al. 2015), or rounded to eight bits (Jacob et al. 2018).

A pruned weight is exactly zero and stays so. Rounded weights lie on a grid for each output, symmetric around zero, and
are not trained on; what is computed with them is what int8 weight-only inference computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmo.engine.layout import Layout

GRID = 127
"""Steps of the grid on either side of zero."""


def prune(values: Tensor, matrices: Tensor, share: float) -> None:
    """Set the smallest weights of all matrices together to zero, in place.

    Args:
        values: Weights, [P].
        matrices: Which places belong to matrices, bool [P].
        share: How many of those are zero afterwards, 0 to 1.
    """
    sizes = values[matrices].abs()
    count = round(share * len(sizes))
    smallest = torch.topk(sizes, count, largest=False).indices
    places = torch.nonzero(matrices).flatten()[smallest]
    values[places] = 0


def pruned(values: Tensor, matrices: Tensor) -> Tensor:
    """Which weights have been pruned, bool [P]."""
    return (values == 0) & matrices


def quantise(layout: Layout, weights: Tensor) -> None:
    """Round every linear layer of weights [P] to its grid, in place."""
    for linear in layout.linears:
        matrix = linear.matrices(weights[None])[0]
        scales = matrix.abs().amax(1, keepdim=True).clamp(min=1e-12) / GRID
        matrix.copy_(torch.round(matrix / scales).clamp(-GRID, GRID) * scales)


def relative_size(layout: Layout, weights: Tensor, matrices: Tensor, quantised: bool, there: int) -> float:
    """Bytes of weights [P] over those of the whole model in float32: zeros count nothing, eight bits a quarter.

    What says where the zeros are, and the scales of the grids, are not counted.

    Args:
        layout: Of the whole model.
        weights: Zero where a part is absent.
        matrices: Which places belong to matrices that are there, bool [P].
        quantised: Whether the linear layers lie on grids.
        there: Parameters that are there.
    """
    kept = float(there - int(pruned(weights, matrices).sum()))
    if quantised:
        eight = sum(int((linear.matrices(weights[None]) != 0).sum()) for linear in layout.linears)
        kept -= 0.75 * eight
    return kept / layout.size
