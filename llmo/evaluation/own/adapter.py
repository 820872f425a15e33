"""LoRA factors of a run as an adapter of PEFT, which its `PeftModel.from_pretrained` puts on the model again."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmo.engine.adapters import SCALING
from llmo.engine.layout import FactorLayout, Linear
from llmo.kinds import Kind, kind_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

TASK_TYPES: dict[Kind, str] = {
    "causal_lm": "CAUSAL_LM",
    "classification": "SEQ_CLS",
    "tagging": "TOKEN_CLS",
    "seq2seq": "SEQ_2_SEQ_LM",
}
"""What PEFT calls the kinds of model."""


@torch.no_grad()
def adapter_model(model: PreTrainedModel, factors: Tensor) -> PeftModel:
    """A copy of a model with an adapter of PEFT that holds what a run has delivered (Hu et al. 2021, "LoRA").

    A head of classes, tags or a number is kept whole, its factors merged into it: it may have been fresh, and then no
    folder of a base has it.

    Args:
        model: The frozen base.
        factors: What training on it has delivered, a row [Q].
    """
    from peft import LoraConfig, get_peft_model

    row = factors.cpu()[None]
    linears = FactorLayout(model).factors
    heads, kind = heads_of(model), kind_of(model)
    inner = [linear for linear in linears if not _within(linear.name, heads)]
    rank = _rank(linears, row)
    settings = LoraConfig(
        r=rank,
        lora_alpha=round(SCALING * rank),
        target_modules=[linear.name for linear in inner],
        modules_to_save=list(heads) or None,
        fan_in_fan_out=any(linear.transposed for linear in linears),
        task_type=TASK_TYPES[kind],
    )
    base = copy.deepcopy(model)
    modules = dict(base.named_modules())
    for linear in linears:
        if _within(linear.name, heads):
            a, b = (factor[0] for factor in linear.factors(row))
            weight = modules[linear.name].weight
            assert isinstance(weight, Tensor)
            weight.add_(b @ a, alpha=SCALING)
    with warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5.23 has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(base, settings)
    layers = {name.removeprefix("base_model.model."): module for name, module in adapted.named_modules()}
    for linear in inner:
        a, b = (factor[0] for factor in linear.factors(row))
        layer = layers[linear.name]
        layer.lora_A["default"].weight.copy_(a[:rank])
        layer.lora_B["default"].weight.copy_(b[:, :rank])
    result: PeftModel = adapted.eval()
    return result


def heads_of(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the modules beside the body of a model for classes, tags or numbers; others have none of their own."""
    if kind_of(model) not in ("classification", "tagging"):
        return ()
    return tuple(
        name for name, module in model.named_children() if name != model.base_model_prefix and list(module.parameters())
    )


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return name.split(".")[0] in modules


def _rank(linears: list[Linear], row: Tensor) -> int:
    """How many rows of A are used, at least 1: the run may have grown or shrunk the rank that it began with."""
    used = [int(index) + 1 for linear in linears for index in linear.factors(row)[0][0].any(1).nonzero()[:, 0]]
    return max(used, default=1)
