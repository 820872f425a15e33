"""Instances of llmo/Classification-v0, llmo/Tagging-v0 and llmo/SequenceToSequence-v0: labelled examples.

As in llmo/LanguageModel-v0 they differ in sources, start, rate and budget, and `train`, `dev` and `test` share no
example, no seed and no model shape. What is wrong with a source is wrong labels (`noise`), garbled texts (another
domain), or both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmo.actions.menu import MENU
from llmo.budget import Cost, sequence_cost
from llmo.engine.layout import Layout
from llmo.engine.models import PRETRAINED, Family, ModelShape, model_config
from llmo.engine.own_models import OwnModel, fresh_model
from llmo.engine.state import Problem
from llmo.hyperparameters import Hyperparameters, Start, default_learning_rate
from llmo.kinds import IGNORED, PADDING, Kind
from llmo.mdp.instances import (
    CLOSABLE,
    SLACK,
    TEST_SEQUENCES,
    Instance,
    draw_dropped,
    draw_rate_factor,
    draw_seed,
    valid_place,
)
from llmo.mdp.materials import Source, draw_sources
from llmo.mdp.problem import rescaled
from llmo.mdp.sizes import BATCH, SHAPES, VALIDATION_SEQUENCES, Sizes, draw_size, episode_cost, widened
from llmo.mdp.spec import EnvSpec
from llmo.tasks.labelled import Labelled
from llmo.tasks.library_examples import ExampleKind, library_examples
from llmo.tasks.own.columns import OwnTask
from llmo.tasks.own.data import OwnData
from llmo.tasks.own.encode import Encoded, encode
from llmo.tasks.task import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPS = 4
"""Groups that held-out examples are cut into; instances of different groups share none."""
EXAMPLE_BYTES = 80
"""Of text in an example, about: what a source's size in bytes is in examples."""
LEAST_EXAMPLES = 16
GARBLED = 0.5
"""Share of the tokens of a garbled text that are replaced by others."""


@dataclass(frozen=True)
class LabelledFamily:
    """What all instances of one task have in common.

    Attributes:
        examples: What is learned.
        task: How it is learned.
        roles: What an example has.
        domain: Of the texts.
        bases: Domains that pre-trained starts have seen.
        context: Most tokens of a sequence.
        scale: How many times as many sequences make a batch, and validate, as in llmo/LanguageModel-v0.
        families: Families of models; only Llamas have pre-trained starts.
        stream: Keeps random numbers apart from those of other environments.
    """

    examples: ExampleKind
    task: OwnTask
    roles: tuple[str, ...]
    domain: str
    bases: tuple[str, ...]
    context: int
    scale: int
    families: tuple[Family, ...]
    stream: int


FAMILIES = {
    family.task: family
    for family in (
        LabelledFamily(
            examples="topics",
            task="classification",
            roles=("text", "label"),
            domain="docstrings",
            bases=("prose", "code"),
            context=32,
            scale=2,
            families=("llama",),
            stream=3,
        ),
        LabelledFamily(
            examples="tags",
            task="tagging",
            roles=("tokens", "tags"),
            domain="code",
            bases=("prose", "code", "docstrings"),
            context=40,
            scale=1,
            families=("llama",),
            stream=4,
        ),
        LabelledFamily(
            examples="summaries",
            task="seq2seq",
            roles=("source", "target"),
            domain="docstrings",
            bases=("prose", "code"),
            context=64,
            scale=1,
            families=("llama", "t5"),
            stream=5,
        ),
    )
}
"""By task."""


def labelled_spec(env: str, task: OwnTask) -> EnvSpec:
    """The environment of one task.

    Args:
        env: Its registered name.
        task: One of `FAMILIES`.
    """
    draw = partial(draw_labelled_instance, task)
    return EnvSpec(env, MENU, draw, build_labelled_problem, model=labelled_template)


def draw_labelled_instance(
    task: OwnTask, part: str, index: int, budget_scale: float = 1.0, sizes: Sizes | None = None
) -> Instance:
    """The instance at one place of a part.

    Args:
        task: One of `FAMILIES`.
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.
        sizes: Of models and budgets; by default those of the part.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    family = FAMILIES[task]
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), family.stream])
    sources, changes = draw_sources(rng, family.domain)
    models: Family = family.families[rng.integers(len(family.families))]
    start: Start = "scratch" if models != "llama" or rng.random() < 0.5 else "pretrained"
    base = family.bases[rng.integers(len(family.bases))] if start == "pretrained" else ""
    sizes = sizes or Sizes(*SHAPES[part])
    small, large = (replace(shape, family=models) for shape in (sizes.small, sizes.large))
    cost = partial(_cost, family, part)
    shape, steps, interval = draw_size(rng, replace(sizes, small=small, large=large), cost)
    return Instance(
        part=part,
        index=int(index),
        seed=draw_seed(rng, part),
        shape=shape,
        domain=family.domain,
        text_group=f"{family.domain}/{rng.integers(GROUPS)}",
        sources=sources,
        changes=changes,
        start=start,
        base=base,
        damage=0.0,
        teacher="",
        rate_factor=draw_rate_factor(rng),
        steps=steps,
        interval=interval,
        budget=budget_scale * episode_cost(widened(cost(shape), sizes.batches), "", steps, interval) * SLACK,
        neutral=draw_dropped(rng, part, ("gradient", "sources")),
        closed=draw_dropped(rng, part, CLOSABLE),
        task=task,
        batches=sizes.batches,
    )


def build_labelled_problem(instance: Instance) -> Problem:
    """The problem of an instance; equal instances give equal ones."""
    rng = np.random.default_rng(instance.seed)
    family = _family(instance)
    own, encoded = _encoded(family, instance.part, instance.shape.family)
    whole = encoded.task
    assert isinstance(whole, Labelled)
    group = int(instance.text_group.rpartition("/")[2])
    materials = {
        source: _material(rng, whole, source, instance.domain, own.kind) for source in dict.fromkeys(instance.sources)
    }
    task = Labelled(
        tuple(materials[source] for source in instance.sources),
        _held_out(rng, whole.validation, group, family.scale * VALIDATION_SEQUENCES),
        _held_out(rng, whole.test, group, family.scale * TEST_SEQUENCES),
    )
    task.codec, task.prompts = own.tokenizer.backend_tokenizer, whole.prompts
    model = _model(family, instance, int(rng.integers(2**31)))
    weights = rescaled(model, Layout(model).flatten(model), instance.weight_scale)
    default = default_learning_rate(len(weights), instance.start, "full")
    return Problem(
        task=task,
        weights=weights,
        teacher=None,
        start=instance.start,
        hyperparameters=Hyperparameters(learning_rate=instance.rate_factor * default),
        roles=((0.0, (0, 1, 2)), *instance.changes),
        interval=instance.interval,
        batch=instance.batches * family.scale * BATCH,
        budget=instance.budget,
        seed=instance.seed,
    )


@lru_cache(maxsize=16)
def _encoded(family: LabelledFamily, part: str, models: Family) -> tuple[OwnModel, Encoded]:
    """All examples of a part as ids and labels, for models of one family, and such a model."""
    own = fresh_model(family.task, model_config(ModelShape(8, 1, models)), family.task)
    splits = [library_examples(family.examples, part, split) for split in ("training", "validation", "test")]
    data = OwnData(family.task, (splits[0],), splits[1], splits[2], family.roles, ())
    return own, encode(data, own.tokenizer, own.config, family.context)


@lru_cache(maxsize=64)
def _cost(family: LabelledFamily, part: str, shape: ModelShape) -> Cost:
    """FLOPs of as many sequences as stand for one of llmo/LanguageModel-v0."""
    own, encoded = _encoded(family, part, shape.family)
    config = fresh_model(family.task, model_config(shape), family.task).config
    config.num_labels = max(1, len(encoded.labels))
    one = sequence_cost(config, encoded.task.tokens, kind=own.kind, positions=encoded.task.positions)
    return Cost(family.scale * one.forward, family.scale * one.train)


def labelled_template(instance: Instance) -> PreTrainedModel:
    """A model of the instance's shape, for its structure."""
    return _model(_family(instance), replace(instance, start="scratch"), 0)


def _family(instance: Instance) -> LabelledFamily:
    return next(family for task, family in FAMILIES.items() if task == instance.task)


def _model(family: LabelledFamily, instance: Instance, seed: int) -> PreTrainedModel:
    """The model that training starts from; on a pre-trained one the head is new."""
    labels = _encoded(family, instance.part, instance.shape.family)[1].labels
    own = fresh_model(family.task, model_config(instance.shape), family.task)
    if instance.start == "pretrained":
        own = replace(own, name=str(PRETRAINED / instance.base_model), start="pretrained")
    return own.build(labels or None, seed)


def _material(rng: np.random.Generator, whole: Labelled, source: Source, domain: str, kind: Kind) -> Examples:
    """Some of the part's training examples, with what is wrong with them."""
    ids, labels = whole.sources[0]
    count = max(LEAST_EXAMPLES, min(len(ids), source.bytes // EXAMPLE_BYTES))
    chosen = rng.choice(len(ids), count, replace=False)
    ids, labels = ids[chosen].copy(), labels[chosen].copy()
    counts = labels != IGNORED
    if source.noise:
        _replace(rng, labels, counts & (rng.random(labels.shape) < source.noise), labels[counts])
    if source.domain != domain:
        readable = _readable(ids, counts, kind)
        _replace(rng, ids, readable & (rng.random(ids.shape) < GARBLED), ids[readable])
    return Examples(torch.from_numpy(ids), torch.from_numpy(labels))


def _replace(rng: np.random.Generator, array: NDArray[Any], hit: NDArray[np.bool_], values: NDArray[Any]) -> None:
    array[hit] = rng.choice(values, int(hit.sum()))


def _readable(ids: NDArray[np.int64], counts: NDArray[np.bool_], kind: Kind) -> NDArray[np.bool_]:
    """Where a row of ids holds what is read, not what is answered: [N, T]."""
    readable: NDArray[np.bool_] = ids != PADDING
    if kind == "seq2seq":
        readable[:, -counts.shape[1] :] = False
    elif kind == "causal_lm":
        readable &= np.cumsum(counts, axis=1) == 0
    return readable


def _held_out(rng: np.random.Generator, examples: Examples, group: int, count: int) -> Examples:
    """Examples of one group; none twice as far as it has enough."""
    size = len(examples.inputs) // GROUPS
    chosen = torch.from_numpy(group * size + rng.choice(size, count, replace=size < count))
    return Examples(examples.inputs[chosen], examples.labels[chosen])
