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

from llmo.hyperparameters import Adapter
from llmo.kinds import Interface, Kind, auto_class

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
            from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model

            settings: PeftConfig = IA3Config()
            if adapter != "ia3":
                targets = list(target_modules) or "all-linear"
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

    # DoRA multiplies its factors once a pass: of many sequences where it only looks, of a few where it trains.
    once = rank and adapter == "dora"
    forward, few = (passed(2) - passed(1), 2) if once else (passed(1), 1)
    given = interface.arguments(torch.zeros(few, tokens, dtype=torch.long), positions)
    with FlopCounterMode(display=False) as counter:
        model(**given).logits.sum().backward()
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
        frozen: How many of the model's parameters, in its order, are not trained.
    """
    text = config.to_json_string(use_diff=True)
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
