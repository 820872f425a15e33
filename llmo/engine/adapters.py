"""LoRA on flat rows: the effective weights, the gradient of the factors, fresh and grown factors.

W' = W + 2 B A for every linear layer, which is PEFT's LoRA with `lora_alpha = 2 r` (Hu et al. 2021). The chain rule gives the
factors' gradients from the gradient in W': dB = 2 dW' A^T and dA = 2 B^T dW', so rows with and without an adapter, and of
different rank, run through one program.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmo.engine.layout import MAX_RANK, Layout

SCALING = 2.0


def _factors(layout: Layout, adapters: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views A [n, R, inputs] and B [n, outputs, R] of each linear layer."""
    n = len(adapters)
    views = []
    for linear in layout.linears:
        a = adapters[:, linear.a : linear.b].view(n, MAX_RANK, linear.inputs)
        end = linear.b + MAX_RANK * linear.outputs
        b = adapters[:, linear.b : end].view(n, linear.outputs, MAX_RANK)
        views.append((a, b))
    return views


def effective_weights(layout: Layout, weights: Tensor, adapters: Tensor) -> Tensor:
    """Weights with the adapter merged in: a new tensor [n, P].

    Args:
        layout: The flat order.
        weights: Base weights [n, P].
        adapters: Factors [n, Q].
    """
    result = weights.clone()
    for linear, (a, b) in zip(layout.linears, _factors(layout, adapters), strict=True):
        end = linear.weight + linear.outputs * linear.inputs
        view = result[:, linear.weight : end].view(len(weights), linear.outputs, linear.inputs)
        view.baddbmm_(b, a, alpha=SCALING)
    return result


def adapter_gradient(layout: Layout, gradient: Tensor, adapters: Tensor) -> Tensor:
    """Gradient of the factors [n, Q] from the gradient in the effective weights [n, P]."""
    result = torch.zeros_like(adapters)
    pairs = zip(layout.linears, _factors(layout, adapters), _factors(layout, result), strict=True)
    for linear, (a, b), (da, db) in pairs:
        end = linear.weight + linear.outputs * linear.inputs
        dw = gradient[:, linear.weight : end].view(len(gradient), linear.outputs, linear.inputs)
        db.copy_(torch.bmm(dw, a.transpose(1, 2))).mul_(SCALING)
        da.copy_(torch.bmm(b.transpose(1, 2), dw)).mul_(SCALING)
    return result


def grow(layout: Layout, adapter: Tensor, old: int, new: int, seed: int) -> None:
    """Give one adapter row [Q] rank `new`, in place; what it computes does not change.

    Rows `old..new` of A get PEFT's Kaiming-uniform start, the matching columns of B stay zero. With `old = 0` this is a
    fresh adapter.
    """
    generator = torch.Generator().manual_seed(seed)
    for linear, (a, _) in zip(layout.linears, _factors(layout, adapter[None]), strict=True):
        bound = 1 / math.sqrt(linear.inputs)
        draw = torch.empty(new - old, linear.inputs).uniform_(-bound, bound, generator=generator)
        a[0, old:new] = draw
