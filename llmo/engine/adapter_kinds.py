"""Adapters that a row can train on weights of its own, by kind: how each changes the weights, and its gradient.

Each is what PEFT calls so: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024, "Weight-decomposed low-rank adaptation"), IA3
(Liu et al. 2022, "Few-shot parameter-efficient fine-tuning") and AdaLoRA (Zhang et al. 2023, "Adaptive budget
allocation for parameter-efficient fine-tuning"). All are changes of weights, so that rows of different kinds run
through one program; the chain rule gives their gradients from the gradient in the changed weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from llmo.engine.adapters import SCALING, adapter_gradient, grow, merge
from llmo.engine.layout import MAX_RANK, Layout, Linear
from llmo.engine.low_rank import shrink
from llmo.hyperparameters import Adapter

START_DEVIATION = 0.02
"""Standard deviation of AdaLoRA's vectors at the start, as PEFT has it."""
ORTHOGONALITY = 0.5
"""Factor on AdaLoRA's penalty: the mean of |A A' - I| and |B' B - I| over all layers, as PEFT has it."""


class AdapterKind(ABC):
    """One way to adapt weights; rows [n, Q] hold what is trained."""

    ranked: bool = True
    """Whether it has factors of some rank."""
    grows: bool = True
    """Whether that rank can be raised."""

    @abstractmethod
    def begin(self, layout: Layout, weights: Tensor, row: Tensor, rank: int, seed: int) -> None:
        """Fill one row [Q] of zeros so that it changes weights [P] by nothing yet."""

    @abstractmethod
    def merge(self, layout: Layout, weights: Tensor, rows: Tensor) -> Tensor:
        """Put the adapters into weights [n, P], in place, and give them back."""

    @abstractmethod
    def gradient(self, layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """Gradient of the rows [n, Q], from that in the changed weights [n, P] and the weights without the adapter."""

    def shrink(self, layout: Layout, row: Tensor, rank: int) -> None:
        """Bring one row [Q] from twice a rank to that rank, in place."""
        shrink(layout, row, rank)

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

    ranked = grows = False

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


class AdaLora(AdapterKind):
    """W + 2 B diag(E) A, whose rows of A and columns of B are held near to orthonormal; ranks differ by layer.

    The scaling is PEFT's with ``lora_alpha = 2 init_r``, and stays so when triplets of a singular value and its two
    vectors are dropped.
    """

    grows = False

    def begin(self, layout: Layout, weights: Tensor, row: Tensor, rank: int, seed: int) -> None:
        """See `AdapterKind.begin`."""
        generator = torch.Generator().manual_seed(seed)
        for linear in layout.linears:
            a, b = (factor[0] for factor in linear.factors(row[None]))
            a[:rank].copy_(START_DEVIATION * torch.randn(rank, linear.inputs, generator=generator))
            b[:, :rank].copy_(START_DEVIATION * torch.randn(linear.outputs, rank, generator=generator))

    def merge(self, layout: Layout, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.merge`."""
        for linear in layout.linears:
            a, e, b = _triplets(linear, rows)
            linear.matrices(weights).add_(torch.bmm(b, e[:, :, None] * a), alpha=SCALING)
        return weights

    def gradient(self, layout: Layout, gradient: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """See `AdapterKind.gradient`; that of the penalty is in it."""
        result = torch.zeros_like(rows)
        share = ORTHOGONALITY / (2 * len(layout.linears))
        for linear in layout.linears:
            dw, (a, e, b), (da, de, db) = linear.matrices(gradient), _triplets(linear, rows), _triplets(linear, result)
            scaled = SCALING * torch.bmm(b.transpose(1, 2), dw)
            de.copy_((scaled * a).sum(2))
            da.copy_(scaled * e[:, :, None]).add_(_orthogonality(a), alpha=share)
            db.copy_(torch.bmm(dw, (e[:, :, None] * a).transpose(1, 2))).mul_(SCALING)
            db.add_(_orthogonality(b.transpose(1, 2)).transpose(1, 2), alpha=share)
        return result

    def shrink(self, layout: Layout, row: Tensor, rank: int) -> None:
        """Drop the least important half of the triplets of all layers together.

        What counts is how much a triplet changes its layer: its singular value's magnitude (the paper's section 3.3),
        times the norms of its vectors, which are not quite 1.
        """
        triplets = [_triplets(linear, row[None]) for linear in layout.linears]
        norms = [(e.abs() * a.norm(dim=2) * b.norm(dim=1))[0] for a, e, b in triplets]
        alive = torch.stack([a[0].any(1) for a, _, _ in triplets], 1)
        # By places first: of those that are alike each layer keeps as many.
        importance = torch.where(alive, torch.stack(norms, 1), -1.0)
        order = importance.flatten().argsort(descending=True, stable=True)
        kept = torch.zeros(alive.numel(), dtype=torch.bool, device=row.device)
        kept[order[: int(alive.sum()) // 2]] = True
        for (a, e, b), here in zip(triplets, kept.view_as(alive).T, strict=True):
            a[0, ~here], e[0, ~here], b[0, :, ~here] = 0.0, 0.0, 0.0


KINDS: dict[Adapter, AdapterKind] = {"lora": Lora(), "dora": Dora(), "ia3": Ia3(), "adalora": AdaLora()}


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


def _triplets(linear: Linear, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AdaLoRA's A [n, R, inputs], singular values [n, R] and B [n, outputs, R]: views of adapter rows [n, Q]."""
    a, b = linear.factors(rows)
    return a, linear.scales(rows, MAX_RANK), b


def _orthogonality(vectors: Tensor) -> Tensor:
    """Gradient of |V V' - I| (Frobenius) in V [n, R, width], of which rows of zeros do not count."""
    distance = torch.bmm(vectors, vectors.transpose(1, 2)) - torch.diag_embed(vectors.any(2).to(vectors))
    norm = distance.flatten(1).norm(dim=1).clamp_(min=1e-12)
    return 2 * torch.bmm(distance, vectors) / norm[:, None, None]


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
