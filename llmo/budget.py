"""What training costs, in FLOPs: one meter for every agent and every executor.

Costs are those of the reference implementation, one Hugging Face model with PEFT where an adapter is on, counted by
`torch.utils.flop_counter` with eager attention. How a population computes the same numbers does not change the price.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from llmo.hyperparameters import VIRTUAL_TOKENS, Adapter
from llmo.kinds import Interface, Kind, auto_class, key_values

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Cost:
    """FLOPs of one sequence of a fixed length.

    Attributes:
        forward: One forward pass.
        train: One forward and backward pass with the given trained weights.
    """

    forward: float
    train: float


@lru_cache(maxsize=256)
def _count(
    config: str,
    model_type: str,
    tokens: int,
    rank: int,
    target_modules: tuple[str, ...],
    kind: Kind,
    positions: int,
    adapter: Adapter,
    frozen: int,
) -> Cost:
    with torch.random.fork_rng(devices=[]):
        model, made = _model(config, model_type, kind)
        if frozen:
            for parameter in list(model.parameters())[:frozen]:
                parameter.requires_grad_(False)
        if rank:
            from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, get_peft_model

            settings: PeftConfig = IA3Config()
            targets = list(target_modules) or "all-linear"
            if adapter == "adalora":
                settings = AdaLoraConfig(init_r=rank, target_modules=targets, total_step=1)
            elif adapter != "ia3":
                settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, use_dora=adapter == "dora")
            with warnings.catch_warnings():
                # PEFT 0.21 reads a property that transformers 5.23 has renamed, and says how it treats GPT-2's layers.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", UserWarning)
                model = get_peft_model(model, settings)
    interface = Interface(made, kind)

    def passed(sequences: int) -> float:
        given = interface.arguments(torch.zeros(sequences, tokens, dtype=torch.long), positions)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**given)
        return float(counter.get_total_flops())

    # DoRA multiplies its factors once a pass: of many sequences where it only looks, of a few where it trains. So does
    # AdaLoRA, whose penalty PEFT adds to losses only.
    once = rank and adapter in ("dora", "adalora")
    forward, few = (passed(2) - passed(1), 2) if once else (passed(1), 1)
    given = interface.arguments(torch.zeros(few, tokens, dtype=torch.long), positions)
    with FlopCounterMode(display=False) as counter:
        total = model(**given).logits.sum()
        if adapter == "adalora":
            for name, parameter in model.named_parameters():
                if "lora_A" in name or "lora_B" in name:
                    vectors = parameter if "lora_A" in name else parameter.T
                    total = total + (vectors @ vectors.T).norm()
        total.backward()
    return Cost(forward, counter.get_total_flops() / few)


def _model(config: str, model_type: str, kind: Kind) -> tuple[Any, Any]:
    """A model of a configuration, and the configuration."""
    from transformers import AutoConfig

    made = AutoConfig.for_model(model_type, **_loads(config))
    made._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        return auto_class(kind).from_config(made, attn_implementation="eager", trust_remote_code=False), made


def _loads(text: str) -> dict[str, object]:
    import json

    fields: dict[str, object] = json.loads(text)
    fields.pop("model_type", None)
    return fields


def sequence_cost(
    config: PretrainedConfig,
    tokens: int,
    rank: int = 0,
    target_modules: tuple[str, ...] = (),
    kind: Kind = "causal_lm",
    positions: int = 0,
    adapter: Adapter = "lora",
    frozen: int = 0,
) -> Cost:
    """What one sequence costs, counted once for each shape and remembered.

    Args:
        config: Configuration of the model.
        tokens: Length of the sequence.
        rank: Rank of the adapter; 0 trains all weights.
        target_modules: Names of the linear layers that the adapter is on, as PEFT has them; empty for all of them.
        kind: Of the model.
        positions: How many predictions a sequence is asked for; 0 for one a token.
        adapter: Kind of the adapter, where there is one.
        frozen: How many of the model's parameters, in its order, are not trained; all of them with virtual tokens.
    """
    if adapter == "prompt":
        longer = tokens + VIRTUAL_TOKENS
        forward = sequence_cost(config, longer, kind=kind, positions=positions).forward
        return Cost(forward, input_gradient_cost(config, longer, kind, positions))
    text = config.to_json_string(use_diff=True)
    if adapter == "prefix":
        return _count_prefix(text, config.model_type, tokens, kind)
    plain = "lora" if adapter == "full" else adapter
    return _count(text, config.model_type, tokens, rank, target_modules, kind, positions or tokens, plain, frozen)


def input_gradient_cost(config: PretrainedConfig, tokens: int, kind: Kind, positions: int) -> float:
    """FLOPs of one sequence's gradient in its embedded inputs, with the forward pass.

    Args:
        config: Configuration of the model.
        tokens: Length of the sequence.
        kind: Of the model; one without a decoder beside an encoder.
        positions: How many predictions a sequence is asked for.
    """
    return _count_inputs(config.to_json_string(use_diff=True), config.model_type, tokens, kind, positions)


@lru_cache(maxsize=64)
def _count_inputs(config: str, model_type: str, tokens: int, kind: Kind, positions: int) -> float:
    model, made = _model(config, model_type, kind)
    model.requires_grad_(False)
    given = Interface(made, kind).arguments(torch.zeros(1, tokens, dtype=torch.long), positions)
    # As a hook, because some classes want to see the ids.
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    with FlopCounterMode(display=False) as counter:
        model(**given).logits.sum().backward()
    return float(counter.get_total_flops())


@lru_cache(maxsize=64)
def _count_prefix(config: str, model_type: str, tokens: int, kind: Kind) -> Cost:
    """FLOPs with keys and values of virtual tokens before a sequence of a decoder, which alone are trained."""
    from transformers import DynamicCache

    model, made = _model(config, model_type, kind)
    model.requires_grad_(False)
    blocks, heads, width = key_values(made)
    given = Interface(made, kind).arguments(torch.zeros(1, tokens, dtype=torch.long), tokens)
    given["attention_mask"] = torch.ones(1, VIRTUAL_TOKENS + tokens)
    found = []
    for trained in (False, True):
        cache = DynamicCache()
        for block in range(blocks):
            cache.update(*torch.zeros(2, 1, heads, VIRTUAL_TOKENS, width, requires_grad=trained), block)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trained):
            total = model(**given, past_key_values=cache).logits.sum()
            if trained:
                total.backward()
        found.append(float(counter.get_total_flops()))
    return Cost(*found)
