"""Adapters that a row can train on weights of its own, by kind: how each changes the weights, and its gradient.

Each is what PEFT calls so: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024, "Weight-decomposed low-rank adaptation") and
IA3 (Liu et al. 2022, "Few-shot parameter-efficient fine-tuning"). All are changes of weights, so that rows of different
kinds run through one program; the chain rule gives their gradients from the gradient in the changed weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from llmo.engine.adapters import adapter_gradient, grow, merge
from llmo.engine.layout import Layout, Linear
from llmo.hyperparameters import Adapter


class AdapterKind(ABC):
    """One way to adapt weights; rows [n, Q] hold what is trained."""

    ranked: bool = True
    """Whether it has factors of some rank."""

    @abstractmethod
    def begin(self, layout: Layout, weights: Tensor, row: Tensor, rank: int, seed: int) -> None:
        """Fill one row [Q] of zeros so that it changes weights [P] by nothing yet."""

    @abstractmethod
    def merge(self, layout: Layout, weights: Tensor, rows: Tensor) -> Tensor:
        """Put the adapters into weights [n, P], in place, and give them back."""

    @abstractmethod
    def gradient(self, layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """Gradient of the rows [n, Q], from that in the changed weights [n, P] and the weights without the adapter."""

    def width(self, layout: Layout) -> int:
        """How much of a row it uses."""
        return layout.adapter_width


class Lora(AdapterKind):
    """W + 2 B A."""

    def begin(self, layout: Layout, weights: Tensor, row: Tensor, rank: int, seed: int) -> None:
        """See `AdapterKind.begin`."""
        grow(layout.factors, row, 0, rank, seed)

    def merge(self, layout: Layout, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.merge`."""
        return merge(layout, weights, rows)

    def gradient(self, layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.gradient`."""
        return adapter_gradient(layout, gradient, rows)

    def width(self, layout: Layout) -> int:
        """See `AdapterKind.width`."""
        return layout.factor_width


class Dora(Lora):
    """A trained magnitude for each output, times the direction of W + 2 B A.

    As in the paper (section 4.3) and in PEFT, the gradient takes the norm of the direction for a constant.
    """

    def begin(self, layout: Layout, weights: Tensor, row: Tensor, rank: int, seed: int) -> None:
        """See `AdapterKind.begin`."""
        super().begin(layout, weights, row, rank, seed)
        for linear in layout.linears:
            norms = linear.matrices(weights[None]).norm(dim=2)
            linear.scales(row[None], linear.outputs).copy_(norms)

    def merge(self, layout: Layout, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.merge`."""
        merge(layout, weights, rows)
        for linear in layout.linears:
            matrices = linear.matrices(weights)
            matrices.mul_((linear.scales(rows, linear.outputs) / _norms(matrices))[:, :, None])
        return weights

    def gradient(self, layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.gradient`."""
        directions, scaled = merge(layout, weights.clone(), rows), gradient.clone()
        magnitudes = torch.zeros_like(rows)
        for linear in layout.linears:
            matrices, norms = linear.matrices(directions), _norms(linear.matrices(directions))
            here = linear.matrices(scaled)
            linear.scales(magnitudes, linear.outputs).copy_((here * matrices).sum(2) / norms)
            here.mul_((linear.scales(rows, linear.outputs) / norms)[:, :, None])
        return adapter_gradient(layout, scaled, rows) + magnitudes

    def width(self, layout: Layout) -> int:
        """See `AdapterKind.width`."""
        return layout.adapter_width


class Ia3(AdapterKind):
    """Keys and values are rescaled, and what the second layer of each feed-forward block reads."""

    ranked = False

    def begin(self, layout: Layout, weights: Tensor, row: Tensor, rank: int, seed: int) -> None:
        """See `AdapterKind.begin`."""
        for linear, count, _ in _rescaled(layout):
            linear.scales(row[None], count).fill_(1.0)

    def merge(self, layout: Layout, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.merge`."""
        for linear, count, of_inputs in _rescaled(layout):
            scales = linear.scales(rows, count)
            linear.matrices(weights).mul_(scales[:, None, :] if of_inputs else scales[:, :, None])
        return weights

    def gradient(self, layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.gradient`."""
        result = torch.zeros_like(rows)
        for linear, count, of_inputs in _rescaled(layout):
            product = linear.matrices(gradient) * linear.matrices(weights)
            linear.scales(result, count).copy_(product.sum(1 if of_inputs else 2))
        return result


KINDS: dict[Adapter, AdapterKind] = {"lora": Lora(), "dora": Dora(), "ia3": Ia3()}


def merge_kinds(layout: Layout, weights: Tensor, rows: Tensor, kinds: Sequence[Adapter]) -> Tensor:
    """Put adapters [n, Q] of some kinds, one a row, into weights [n, P], in place, and give them back."""
    for kind, places in _by_kind(kinds):
        if len(places) == len(kinds):
            return KINDS[kind].merge(layout, weights, rows)
        weights[places] = KINDS[kind].merge(layout, weights[places], rows[places])
    return weights


def kinds_gradient(
    layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor, kinds: Sequence[Adapter]
) -> tuple[Tensor, Tensor]:
    """Gradients of adapters [n, Q] of some kinds, one a row, and where each kind ends in its row, [n].

    Args:
        layout: Of weights and adapters.
        gradient: In the changed weights, [n, P].
        weights: Without the adapters, [n, P].
        rows: The adapters, [n, Q].
        kinds: Of each row.
    """
    result = torch.zeros_like(rows)
    for kind, places in _by_kind(kinds):
        result[places] = KINDS[kind].gradient(layout, gradient[places], weights[places], rows[places])
    return result, torch.tensor([KINDS[kind].width(layout) for kind in kinds])


def _by_kind(kinds: Sequence[Adapter]) -> Iterator[tuple[Adapter, list[int]]]:
    for kind in dict.fromkeys(kinds):
        yield kind, [place for place, other in enumerate(kinds) if other == kind]


def _norms(matrices: Tensor) -> Tensor:
    """Norm of what each output reads, [n, outputs]; never zero."""
    return matrices.norm(dim=2).clamp_(min=1e-12)


def _rescaled(layout: Layout) -> Iterator[tuple[Linear, int, bool]]:
    """Which layers IA3 rescales: each with how many scales, and whether they are of its inputs."""
    targets, feed_forward = ia3_targets(layout.model_type)
    for linear in layout.linears:
        if linear.name.endswith(feed_forward):
            yield linear, linear.inputs, True
        elif linear.name.endswith(targets):
            yield linear, linear.outputs, False


def rescalable(layout: Layout) -> bool:
    """Whether IA3 can be had by scaling weights alone: it also scales the biases of what it rescales by outputs."""
    layers = list(_rescaled(layout))
    return bool(layers) and all(
        f"{linear.name}.bias" not in layout.names for linear, _, by_inputs in layers if not by_inputs
    )


@lru_cache(maxsize=64)
def ia3_targets(model_type: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How the names of layers end that PEFT's IA3 rescales in a kind of model, and of those in a feed-forward block."""
    from peft.utils import constants

    targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(model_type, ())
    feed_forward = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model_type, ())
    return tuple(f".{name}" for name in targets), tuple(f".{name}" for name in feed_forward)


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
