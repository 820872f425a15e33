"""What this machine can do at best: the rate of matrix products and of copies on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from llmo.evaluation.throughput.problems import SMALL, Setup
from llmo.evaluation.throughput.row import Row, Workload, alone
from llmo.evaluation.throughput.timing import Effort, in_turn
from llmo.mdp.instances import BATCH, TOKENS

NAME = "limits"
SIDE = 1024
"""Rows and columns of large matrices."""
COPIED = 2**28
"""Bytes, far more than caches hold."""


def limits(effort: Effort) -> Iterator[Row]:
    """Float32 matrix products of large matrices and of a population's own, and copies in memory."""
    large = torch.rand(SIDE, SIDE)
    setup = Setup(SMALL, 32)
    hidden = torch.rand(setup.replicas, BATCH * TOKENS, SMALL.width)
    weights = torch.rand(setup.replicas, SMALL.width, SMALL.width)
    here, there = torch.rand(2, COPIED // 4)
    sides = {
        "large": partial(torch.mm, large, large),
        "own": partial(torch.bmm, hidden, weights),
        "copy": partial(there.copy_, here),
    }
    found = in_turn(sides, 5 * effort.scale)
    nothing, sizes = Workload(0, 0, 1), f"{BATCH * TOKENS} x {SMALL.width} by {SMALL.width} x {SMALL.width}"
    rate = 2 * SIDE**3 / found["large"] / 1e9
    yield alone(NAME, nothing, rate, "GFLOP/s", note=f"products of {SIDE} x {SIDE} matrices")
    rate = 2 * hidden.numel() * SMALL.width / found["own"] / 1e9
    yield alone(
        NAME, setup.workload, rate, "GFLOP/s", note=f"{setup.replicas} products of {sizes} matrices in one call"
    )
    yield alone(NAME, nothing, COPIED / found["copy"] / 1e9, "GB/s", note="copied in memory")
