"""LoRA adapters on one frozen pre-trained base: what fine-tuning a large language model is like.

The base has learned one domain of text; each instance adapts it to another, with an adapter, data, a rate and a budget
of its own. See `llmo/mdp/adapter_instances.py` for what an instance draws.
"""

from __future__ import annotations

from llmo.mdp.adapter_instances import draw_adapter_instance
from llmo.mdp.problem import build_problem
from llmo.mdp.spec import EnvSpec
from llmo.registry import environments

MENU = (
    "keep",
    "rate_x0.2",
    "rate_x0.5",
    "rate_x2",
    "rate_x5",
    "rate_default",
    "rate_decay",
    "regularise_more",
    "regularise_less",
    "source_1",
    "source_2",
    "source_3",
    "source_uniform",
    "source_tracking",
    "augment_off",
    "augment_noise",
    "augment_mask",
    "adapter_rank_up",
    "distil_teacher",
    "distil_averaged",
    "distil_off",
    "rollback",
    "load_averaged",
)


@environments.register("llmo/Adapters-v0")
def adapters() -> EnvSpec:
    """Adapt one frozen pre-trained model by LoRA."""
    return EnvSpec("llmo/Adapters-v0", MENU, draw_adapter_instance, build_problem, lambda instance: instance.base_model)
