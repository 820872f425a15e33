"""LoRA on flat rows: the effective weights, the gradient of the factors, fresh and grown factors.

W' = W + 2 B A for every linear layer, which is PEFT's LoRA with `lora_alpha = 2 r` (Hu et al. 2021). The chain rule
gives the factors' gradients from the gradient in W': dB = 2 dW' A^T and dA = 2 B^T dW', so rows with and without an
adapter, and of different rank, run through one program.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llmo.engine.layout import MAX_RANK, Layout, Linear

SCALING = 2.0


def _factors(layout: Layout, adapters: Tensor) -> Iterator[tuple[Linear, Tensor, Tensor]]:
    """Each linear layer with views of its A [n, R, inputs] and B [n, outputs, R]."""
    n = len(adapters)
    for linear in layout.linears:
        a = adapters[:, linear.a : linear.b].view(n, MAX_RANK, linear.inputs)
        end = linear.b + MAX_RANK * linear.outputs
        yield linear, a, adapters[:, linear.b : end].view(n, linear.outputs, MAX_RANK)


def _matrices(linear: Linear, rows: Tensor) -> Tensor:
    """The layer's weight in each row: a view [n, outputs, inputs]."""
    end = linear.weight + linear.outputs * linear.inputs
    return rows[:, linear.weight : end].view(len(rows), linear.outputs, linear.inputs)


def merge(layout: Layout, weights: Tensor, adapters: Tensor) -> Tensor:
    """Add adapters [n, Q] to weights [n, P], in place, and give them back."""
    for linear, a, b in _factors(layout, adapters):
        _matrices(linear, weights).add_(torch.bmm(b, a), alpha=SCALING)
    return weights


def adapter_gradient(layout: Layout, gradient: Tensor, adapters: Tensor) -> Tensor:
    """Gradient of the factors [n, Q] from the gradient in the effective weights [n, P]."""
    result = torch.zeros_like(adapters)
    for (linear, a, b), (_, da, db) in zip(_factors(layout, adapters), _factors(layout, result), strict=True):
        dw = _matrices(linear, gradient)
        db.copy_(torch.bmm(dw, a.transpose(1, 2))).mul_(SCALING)
        da.copy_(torch.bmm(b.transpose(1, 2), dw)).mul_(SCALING)
    return result


def grow(layout: Layout, adapter: Tensor, old: int, new: int, seed: int) -> None:
    """Give one adapter row [Q] rank `new`, in place; what it computes does not change.

    Rows `old..new` of A get PEFT's Kaiming-uniform start, the matching columns of B stay zero. With `old = 0` this is a
    fresh adapter.
    """
    generator = torch.Generator().manual_seed(seed)
    for linear, a, _ in _factors(layout, adapter[None]):
        bound = 1 / math.sqrt(linear.inputs)
        a[0, old:new] = torch.empty(new - old, linear.inputs).uniform_(-bound, bound, generator=generator)
