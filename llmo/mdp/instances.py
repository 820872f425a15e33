"""Instances: everything that makes one training problem, drawn from a seeded distribution.

`train`, `dev` and `test` share no text, no seed and no model shape. An optimizer step is 2 sequences of 32 tokens.
`draw_instance` is the distribution of llmo/LanguageModel-v0, `draw_rescaled_instance` that of llmo/LanguageModel-v1;
others draw what they share with them by the same functions. `problem.py` builds what is drawn.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace

import numpy as np

from llmo.engine.models import ModelShape
from llmo.errors import LlmoError
from llmo.hyperparameters import Start
from llmo.mdp.materials import Source, draw_sources, draw_teacher, others
from llmo.mdp.sizes import SHAPES, Sizes, draw_size, episode_cost, model_cost, widened
from llmo.tasks.text import DOMAINS, PARTS

TEST_SEQUENCES = 128
PHASED_VALIDATION, PHASED_TEST = 30, 120
"""The same where the data shift: two or three phases have equal parts."""
TEXT_GROUPS = 8
"""Stretches that each held-out text is cut into; instances of different stretches share no validation or test text."""
SLACK = 1 + 1e-9
"""Factor on budgets, so that rounding does not cost an episode its last step."""
FARTHEST = {"prose": "code", "docstrings": "code", "code": "prose"}
"""Base domain of an intact start, by target: from a nearer one, small budgets improve nothing on train instances."""
DAMAGES = (0.0, 0.25, 0.5)
"""Noise on a base's weights, relative to their standard deviation."""
WEIGHT_SCALE = 8.0
"""Most by which llmo/LanguageModel-v1 rescales weights, up or down."""
RESCALED_STREAM = 2
"""Apart from the random numbers of other environments, so that they share no seed."""
HIDEABLE = ("gradient", "sources", "teacher")
CLOSABLE = ("adapter", "augment", "distil", "load", "rollback")


@dataclass(frozen=True)
class Instance:
    """One training problem; equal instances give equal problems.

    Attributes:
        part: ``train``, ``dev`` or ``test``.
        index: Its place in the part.
        seed: Of everything random in it.
        shape: Model width and depth.
        domain: Target domain; a folder where the text is a user's own.
        text_group: Which group of the domain's held-out text validates and tests it.
        sources: The three materials, in the order of the slots at the start.
        changes: Shares of the budget at which the materials change slots, with the new order.
        start: From scratch, or pre-trained.
        base: Domain that the pre-trained base has seen; empty from scratch.
        damage: Standard deviation of noise on the base's weights, relative to theirs; 0 for an intact base.
        teacher: Name of a shipped teacher; empty for none.
        rate_factor: Starting rate over the default rate.
        steps: Environment steps at plain cost.
        interval: Optimizer steps in one environment step.
        budget: FLOPs.
        neutral: Feature groups that cannot be seen (train instances only).
        closed: First words of the actions that are not on offer (train instances only).
        rank: Of the LoRA adapter that is trained on the frozen base; 0 where all weights are trained.
        target_modules: Names of the linear layers that the adapter is on, as PEFT has them; empty for all of them.
        weight_scale: Factor on the weights that leaves what the model computes as it is; see `problem.py`.
        task: What is learned: ``causal_lm``, or what `llmo/mdp/labelled_instances.py` has.
        phases: Domain of each phase where the data shift; empty where they do not.
        epsilon: Budget of privacy; 0 where training is not private.
        price: What the whole budget is worth, in log validation loss.
        size_price: Power of the relative size of the weights that validation losses are multiplied by.
        work_price: The same of the relative FLOPs of a prediction.
        repeated: Share of the training sequences that nearly repeat others.
        broken: Share of the training sequences that were decoded wrongly.
        batches: How many usual batches an optimizer step learns from.
    """

    part: str
    index: int
    seed: int
    shape: ModelShape
    domain: str
    text_group: str
    sources: tuple[Source, ...]
    changes: tuple[tuple[float, tuple[int, ...]], ...]
    start: Start
    base: str
    damage: float
    teacher: str
    rate_factor: float
    steps: int
    interval: int
    budget: float
    neutral: tuple[str, ...]
    closed: tuple[str, ...]
    rank: int = 0
    target_modules: tuple[str, ...] = ()
    weight_scale: float = 1.0
    task: str = "causal_lm"
    phases: tuple[str, ...] = ()
    epsilon: float = 0.0
    price: float = 0.0
    size_price: float = 0.0
    work_price: float = 0.0
    repeated: float = 0.0
    broken: float = 0.0
    batches: int = 1

    @property
    def base_model(self) -> str:
        """Name of the shipped model that training starts from; empty from scratch."""
        return self.base and f"base-{self.base}-{self.shape}"


def draw_instance(part: str, index: int, budget_scale: float = 1.0, sizes: Sizes | None = None) -> Instance:
    """The instance at one place of a part.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.
        sizes: Of models and budgets; by default those of the part.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng(valid_place(part, index, budget_scale))
    return _draw(rng, part, index, budget_scale, sizes or Sizes(*SHAPES[part]))


def draw_rescaled_instance(
    part: str, index: int, budget_scale: float = 1.0, sizes: Sizes | None = None, folder: str = ""
) -> Instance:
    """The instance at one place of a part, with weights of a scale that nobody is told.

    What a model computes says little about the rate that trains it best: models of the same function whose weights are
    larger or smaller want rates in proportion. So the default rate may be wrong by a factor of 8 either way, as the
    usual rate is for a model that nobody has tuned yet.

    Args:
        part: ``train``, ``dev`` or ``test``.
        index: From 0; every index is a different problem, and none is one of `draw_instance`.
        budget_scale: Multiplies the budget, and nothing else; for measuring speed-up.
        sizes: Of models and budgets; by default those of the part.
        folder: Whose text is learned, see `llmo/tasks/own_text.py`; by default that of a domain.

    Raises:
        LlmoError: No such part, no such index, or the scale is not positive and finite.
    """
    rng = np.random.default_rng([*valid_place(part, index, budget_scale), RESCALED_STREAM])
    instance = _draw(rng, part, index, budget_scale, sizes or Sizes(*SHAPES[part]), folder)
    return replace(instance, weight_scale=float(WEIGHT_SCALE ** rng.uniform(-1, 1)))


def _draw(
    rng: np.random.Generator, part: str, index: int, budget_scale: float, sizes: Sizes, folder: str = ""
) -> Instance:
    domain = folder or str(rng.choice(DOMAINS))
    sources, changes = draw_sources(rng, domain)
    start: Start = "scratch" if rng.random() < 0.5 else "pretrained"
    damage = float(rng.choice(DAMAGES, p=[0.2, 0.4, 0.4])) if start == "pretrained" else 0.0
    base = str(rng.choice(others(domain))) if damage else FARTHEST.get(domain, "code")
    teacher = draw_teacher(rng, domain)
    shape, steps, interval = draw_size(rng, sizes, model_cost)
    return Instance(
        part=part,
        index=int(index),
        seed=draw_seed(rng, part),
        shape=shape,
        domain=domain,
        text_group=draw_text_group(rng, domain),
        sources=sources,
        changes=changes,
        start=start,
        base=base if start == "pretrained" else "",
        damage=damage,
        teacher=teacher,
        rate_factor=draw_rate_factor(rng),
        steps=steps,
        interval=interval,
        budget=budget_scale * episode_cost(widened(model_cost(shape), sizes.batches), teacher, steps, interval) * SLACK,
        neutral=draw_dropped(rng, part, HIDEABLE),
        closed=draw_dropped(rng, part, CLOSABLE),
        batches=sizes.batches,
    )


def valid_place(part: str, index: int, budget_scale: float) -> list[int]:
    """What an instance is drawn from: a seed of random numbers for its place in a part.

    Raises:
        LlmoError: No such part, no such index, or the budget scale is not positive and finite.
    """
    if part not in PARTS:
        raise LlmoError("split", part, PARTS)
    if isinstance(index, bool) or not isinstance(index, numbers.Integral) or index < 0:
        raise LlmoError("instance", index, "an index from 0")
    if not 0 < budget_scale < math.inf:
        raise LlmoError("budget scale", budget_scale, "a positive finite number")
    return [PARTS.index(part), int(index)]


def draw_seed(rng: np.random.Generator, part: str) -> int:
    """A seed that no instance of another part has."""
    return int(rng.integers(2**61)) * 3 + PARTS.index(part)


def draw_text_group(rng: np.random.Generator, domain: str) -> str:
    """One of a domain's stretches of held-out text."""
    return f"{domain}/{rng.integers(TEXT_GROUPS)}"


def draw_rate_factor(rng: np.random.Generator) -> float:
    """A starting rate over the default rate, log-uniform over three decades."""
    return float(10 ** rng.uniform(-1.5, 1.5))


def draw_dropped(rng: np.random.Generator, part: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """One of the names on a tenth of the train instances: a policy must also work where something is missing."""
    return (str(rng.choice(names)),) if part == "train" and rng.random() < 0.1 else ()
