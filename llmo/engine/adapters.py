"""LoRA on flat rows: the effective weights, the gradient of the factors, fresh and grown factors.

W' = W + 2 B A for every linear layer, which is PEFT's LoRA with `lora_alpha = 2 r` (Hu et al. 2021). The chain rule
gives the factors' gradients from the gradient in W': dB = 2 dW' A^T and dA = 2 B^T dW', so rows with and without an
adapter, and of different rank, run through one program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from llmo.engine.layout import Layout, Linear

SCALING = 2.0


def merge(layout: Layout, weights: Tensor, adapters: Tensor) -> Tensor:
    """Add adapters [n, Q] to weights [n, P], in place, and give them back."""
    for linear in layout.linears:
        a, b = linear.factors(adapters)
        linear.matrices(weights).add_(torch.bmm(b, a), alpha=SCALING)
    return weights


def adapter_gradient(layout: Layout, gradient: Tensor, adapters: Tensor) -> Tensor:
    """Gradient of the factors [n, Q] from the gradient in the effective weights [n, P]."""
    result = torch.zeros_like(adapters)
    for linear in layout.linears:
        dw, (a, b), (da, db) = linear.matrices(gradient), linear.factors(adapters), linear.factors(result)
        db.copy_(torch.bmm(dw, a.transpose(1, 2))).mul_(SCALING)
        da.copy_(torch.bmm(b.transpose(1, 2), dw)).mul_(SCALING)
    return result


def grow(linears: Iterable[Linear], adapter: Tensor, old: int, new: int, seed: int) -> None:
    """Give one adapter row [Q] rank `new`, in place; what it computes does not change.

    Rows `old..new` of A get PEFT's Kaiming-uniform start, the matching columns of B stay zero. With `old = 0` this is a
    fresh adapter.

    Args:
        linears: The layers that it is on; the others stay without one.
        adapter: The row.
        old: Rank that it has.
        new: Rank that it gets, at most `MAX_RANK`.
        seed: Of the new rows.
    """
    generator = torch.Generator().manual_seed(seed)
    for linear in linears:
        bound = 1 / math.sqrt(linear.inputs)
        fresh = torch.empty(new - old, linear.inputs).uniform_(-bound, bound, generator=generator)
        linear.factors(adapter[None])[0][0, old:new] = fresh.to(adapter.device)


def adapted(linears: Iterable[Linear], adapter: Tensor) -> list[Linear]:
    """The layers that an adapter row [Q] is on."""
    return [linear for linear in linears if linear.factors(adapter[None])[0].any()]
