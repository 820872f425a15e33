"""Builds the problem of an instance: its texts, its weights and its settings, ready for a `Run`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmo.engine.adapters import grow
from llmo.engine.layout import FactorLayout, Layout
from llmo.engine.models import build_model, load_pretrained
from llmo.engine.state import Problem
from llmo.hyperparameters import Hyperparameters, default_learning_rate
from llmo.mdp.instances import PHASED_TEST, PHASED_VALIDATION, TEST_SEQUENCES, TEXT_GROUPS, Instance
from llmo.mdp.materials import Source
from llmo.mdp.sizes import BATCH, TOKENS, VALIDATION_SEQUENCES
from llmo.tasks.causal_lm import CausalLM
from llmo.tasks.own_text import FILES, cell_tokens
from llmo.tasks.text import CELLS, DOMAINS, Cell, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_problem(instance: Instance) -> Problem:
    """The problem of an instance; equal instances give equal ones."""
    rng = np.random.default_rng(instance.seed)
    group = int(instance.text_group.rpartition("/")[2])
    materials = {source: _material(rng, source, instance.part) for source in dict.fromkeys(instance.sources)}
    domains = instance.phases or (instance.domain,)

    def held_out(split: str, count: int) -> NDArray[np.int64]:
        each = count // len(domains)
        return np.concatenate([_windows(rng, (domain, instance.part, split), group, each) for domain in domains])

    task = CausalLM(
        tuple(materials[source] for source in instance.sources),
        held_out("validation", PHASED_VALIDATION if instance.phases else VALIDATION_SEQUENCES),
        held_out("test", PHASED_TEST if instance.phases else TEST_SEQUENCES),
    )
    task.phases = len(domains)
    task.codec = load_tokenizer()
    weights, parameters = _start(rng, instance)
    default = default_learning_rate(parameters, instance.start, "lora" if instance.rank else "full")
    return Problem(
        task=task,
        weights=weights,
        teacher=load_pretrained(instance.teacher) if instance.teacher else None,
        start=instance.start,
        hyperparameters=Hyperparameters(learning_rate=instance.rate_factor * default),
        roles=((0.0, (0, 1, 2)), *instance.changes),
        interval=instance.interval,
        batch=instance.batches * BATCH,
        budget=instance.budget,
        seed=instance.seed,
        rank=instance.rank,
        target_modules=instance.target_modules,
        price=instance.price,
        size_price=instance.size_price,
        work_price=instance.work_price,
    )


def _material(rng: np.random.Generator, source: Source, part: str) -> NDArray[np.int16]:
    """A stretch of the part's own training text; noise replaces tokens by others of the same text."""
    text, size = cell_tokens((source.domain, part, "training"))
    wanted = max(4 * TOKENS, min(len(text), round(source.bytes * len(text) / size)))
    start = int(rng.integers(len(text) - wanted + 1))
    material = text[start : start + wanted].copy()
    if source.noise:
        hit = rng.random(wanted) < source.noise
        material[hit] = rng.choice(text, int(hit.sum()))
    return material


def _windows(rng: np.random.Generator, cell: Cell, group: int, count: int) -> NDArray[np.int64]:
    """Windows of T + 1 tokens of one group's stretch of a held-out text; without overlap as far as it has room."""
    (text, _), own = cell_tokens(cell), _own(cell)
    size = len(text) // TEXT_GROUPS
    first, last = group * size, (group + 1) * size - TOKENS
    step = TOKENS if (last - first) // TOKENS >= count else max(1, (last - first) // count)
    places = np.arange(first, last, step)
    places = places[own[places]]
    starts = rng.choice(places, count, replace=len(places) < count)
    return np.stack([text[start : start + TOKENS + 1] for start in starts]).astype(np.int64)


@lru_cache(maxsize=32)
def _own(cell: Cell) -> NDArray[np.bool_]:
    """Where windows begin that stand in no other text: a rule of dashes or a common idiom belongs to nobody."""
    here = _hashes(cell)
    domain, part, _ = cell
    return _count(here, np.sort(here)) == _count(here, _all_hashes("" if domain in DOMAINS else domain, part))


def _count(wanted: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> NDArray[np.intp]:
    return np.searchsorted(ascending, wanted, "right") - np.searchsorted(ascending, wanted, "left")


@lru_cache(maxsize=8)
def _all_hashes(folder: str, part: str) -> NDArray[np.uint64]:
    own = [(folder, part, split) for split in FILES] if folder else []
    return np.sort(np.concatenate([_hashes(cell) for cell in (*CELLS, *own)]))


def _hashes(cell: Cell) -> NDArray[np.uint64]:
    """A 64-bit hash of the window of T + 1 tokens at each place of a text."""
    text = cell_tokens(cell)[0].astype(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=TOKENS + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    windows = len(text) - TOKENS
    result = np.zeros(windows, np.uint64)
    for offset, factor in enumerate(factors):
        result += factor * text[offset : offset + windows]
    return result


def _start(rng: np.random.Generator, instance: Instance) -> tuple[Tensor, int]:
    """What training starts from, and how many parameters the model has without an adapter."""
    if instance.rank:
        layout = FactorLayout(load_pretrained(instance.base_model))
        return _fresh_factors(rng, instance, layout), layout.base.size
    model, weights = _start_weights(rng, instance)
    return rescaled(model, weights, instance.weight_scale), len(weights)


def _fresh_factors(rng: np.random.Generator, instance: Instance, layout: FactorLayout) -> Tensor:
    """A row of LoRA factors that change nothing yet, on the linear layers that are adapted."""
    wanted = instance.target_modules
    linears = [linear for linear in layout.factors if not wanted or linear.name.rpartition(".")[2] in wanted]
    factors = torch.zeros(layout.size)
    grow(linears, factors, 0, instance.rank, int(rng.integers(2**31)))
    return factors


def _start_weights(rng: np.random.Generator, instance: Instance) -> tuple[PreTrainedModel, Tensor]:
    if instance.start == "scratch":
        model = build_model(instance.shape, int(rng.integers(2**31)))
        return model, Layout(model).flatten(model)
    model = load_pretrained(instance.base_model)
    weights = Layout(model).flatten(model)
    if instance.damage:
        noise = torch.from_numpy(rng.standard_normal(len(weights)).astype(np.float32))
        sizes = [p.numel() for p in model.parameters()]
        scales = torch.cat([p.detach().std().expand(size) for p, size in zip(model.parameters(), sizes, strict=True)])
        weights = weights + instance.damage * scales.nan_to_num() * noise
    return model, weights


def rescaled(model: PreTrainedModel, weights: Tensor, scale: float) -> Tensor:
    """Weights of another scale that compute the same.

    Every matrix is multiplied by `scale`, with the bias of what writes to the residual stream, and every gain and bias
    of a norm is divided by it: a norm takes out the scale of the residual stream, and its own gain that of the matrices
    which read it.
    """
    return weights * torch.cat(
        [
            torch.tensor(_factor(name, parameter, scale)).expand(parameter.numel())
            for name, parameter in model.named_parameters()
        ]
    )


def _factor(name: str, parameter: Tensor, scale: float) -> float:
    """By what one parameter is multiplied; a bias is that of a norm, of what writes the stream, or of what reads it."""
    if parameter.ndim > 1:
        return scale
    if name.endswith("c_proj.bias"):
        return scale
    return 1.0 if name.endswith(("c_attn.bias", "c_fc.bias")) else 1 / scale
