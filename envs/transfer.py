"""What a policy of llmo/LanguageModel-v1 has never met: larger models, longer budgets, another architecture.

Everything else is drawn as there. Their instances are for scoring policies that were learned elsewhere, so the parts
share their shapes of models.
"""

from __future__ import annotations

from functools import partial

from llmo.actions.menu import MENU
from llmo.engine.models import ModelShape
from llmo.mdp.instances import draw_rescaled_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.sizes import BUDGET_FACTOR, SHAPES, Sizes
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments


def _sized(name: str, sizes: Sizes) -> EnvSpec:
    return EnvSpec(name, MENU, partial(draw_rescaled_instance, sizes=sizes), build_problem)


@environments.register("llmo/LanguageModel-Large-v1")
def large() -> EnvSpec:
    """Models of width 56 and three blocks, with 2.5 times the parameters of the largest of llmo/LanguageModel-v1."""
    shape = ModelShape(56, 3)
    return _sized("llmo/LanguageModel-Large-v1", Sizes(shape, shape))


@environments.register("llmo/LanguageModel-Long-v1")
def long() -> EnvSpec:
    """Budgets of one to four times the largest of llmo/LanguageModel-v1, in as many environment steps."""
    return _sized("llmo/LanguageModel-Long-v1", Sizes(*SHAPES["test"], BUDGET_FACTOR, 4 * BUDGET_FACTOR))


@environments.register("llmo/LanguageModel-GPT2-v1")
def gpt2() -> EnvSpec:
    """GPT-2 instead of Llama: learned positions, LayerNorm, GELU, biases."""
    shape = ModelShape(32, 2, "gpt2")
    return _sized("llmo/LanguageModel-GPT2-v1", Sizes(shape, shape))
