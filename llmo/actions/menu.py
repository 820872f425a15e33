"""The actions of the package, in the order of their indices: environments offer all of them, or some."""

from __future__ import annotations

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
    "adapter_full",
    "adapter_lora",
    "adapter_rank_up",
    "adapter_merge",
    "distil_teacher",
    "distil_averaged",
    "distil_off",
    "rollback",
    "load_averaged",
)
