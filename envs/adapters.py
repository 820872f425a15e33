"""LoRA adapters on one frozen pre-trained base: what fine-tuning a large language model is like.

The base has learned one domain of text; each instance adapts it to another, with an adapter, data, a rate and a budget
of its own. See `llmo/mdp/adapter_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.actions.menu import MENU
from llmo.mdp.adapter_instances import draw_adapter_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

SWAPS = ("adapter_full", "adapter_lora", "adapter_merge")
"""What a frozen base does not allow."""


@environments.register("llmo/Adapters-v0")
def adapters() -> EnvSpec:
    """Adapt one frozen pre-trained model by LoRA."""
    menu = tuple(name for name in MENU if name not in SWAPS)
    return EnvSpec("llmo/Adapters-v0", menu, draw_adapter_instance, build_problem, lambda instance: instance.base_model)
