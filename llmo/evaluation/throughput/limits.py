"""What this machine can do at best: the rate of matrix products, by MKL and by oneDNN, and of copies on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmo.evaluation.throughput.problems import LARGE, SMALL, Setup
from llmo.evaluation.throughput.row import Row, Workload, alone
from llmo.evaluation.throughput.timing import Effort, in_turn
from llmo.mdp.sizes import BATCH, TOKENS

NAME = "limits"
SIDE = 1024
"""Rows and columns of large matrices."""
COPIED = 2**28
"""Bytes, far more than caches hold."""
CALLS = 20
"""In one timing: alone, a small product would find the caches cold."""


def limits(effort: Effort) -> Iterator[Row]:
    """Float32 matrix products of large matrices and of populations' own, and copies in memory."""
    setup, tokens = Setup(SMALL, 32), BATCH * TOKENS
    products = {
        f"{SIDE} x {SIDE} by {SIDE} x {SIDE}": (torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)),
        f"{8 * tokens} x {LARGE.width} by {LARGE.width} x {LARGE.width}": (
            torch.rand(8 * tokens, LARGE.width),
            torch.rand(LARGE.width, LARGE.width),
        ),
        f"{tokens} x {SMALL.width} by {SMALL.width} x {SMALL.width}, {setup.replicas} in one call": (
            torch.rand(setup.replicas, tokens, SMALL.width),
            torch.rand(setup.replicas, SMALL.width, SMALL.width),
        ),
    }
    here, there = torch.rand(2, COPIED // 4)
    sides: dict[str, Callable[[], object]] = {"copy": partial(there.copy_, here)}
    for name, factors in products.items():
        sides[f"{name}, MKL"] = partial(_products, *factors)
        sides[f"{name}, oneDNN"] = partial(_by_onednn, partial(_products, *factors))
    found = in_turn(sides, 10 * effort.scale)
    for name, (a, b) in products.items():
        workload = setup.workload if a.dim() == 3 else Workload(0, 0, 1)
        for library in ("MKL", "oneDNN"):
            rates = CALLS * 2 * a.numel() * b.shape[-2] / found[f"{name}, {library}"] / 1e9
            note = f"{name}, {library}, relative error {_error(a, b, library):.0e}"
            yield alone(NAME, workload, rates, "GFLOP/s", note=note)
    yield alone(NAME, Workload(0, 0, 1), COPIED / found["copy"] / 1e9, "GB/s", note="copied in memory")


def _products(a: Tensor, b: Tensor) -> None:
    for _ in range(CALLS):
        _product(a, b)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """With the second matrix transposed, as a linear layer keeps its weight."""
    return torch.matmul(a, b.transpose(-1, -2))


def _by_onednn(call: Callable[[], object]) -> object:
    """Let oneDNN do a call's products: that they may be in bfloat16 is how torch is asked for it."""
    # torch's stubs lack it.
    matmul: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        return call()
    finally:
        matmul.fp32_precision = before


def _error(a: Tensor, b: Tensor, library: str) -> float:
    """Relative error of a product: about 1e-7 in float32, 1e-3 in bfloat16."""
    call = partial(_product, a, b)
    found = call() if library == "MKL" else _by_onednn(call)
    assert isinstance(found, Tensor)
    exact = _product(a.double(), b.double())
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))
