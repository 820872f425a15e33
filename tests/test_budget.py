"""The meter against a hand count, and against torch's counter on a real PEFT model."""

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from llmo.budget import sequence_cost
from llmo.engine.models import ModelShape, build_model, llama_config

SHAPE, TOKENS = ModelShape(16, 2), 8


def test_a_forward_pass_is_what_one_counts_by_hand() -> None:
    config = llama_config(SHAPE)
    width, inner, tokens = SHAPE.width, config.intermediate_size, TOKENS
    linear = SHAPE.depth * (4 * width * width + 3 * width * inner) + width * config.vocab_size
    attention = SHAPE.depth * 2 * tokens * width  # Scores and values, each tokens x tokens x width.
    assert sequence_cost(config, TOKENS).forward == 2 * tokens * (linear + attention)


def test_training_costs_two_more_products_for_each_of_the_forward_pass() -> None:
    config = llama_config(SHAPE)
    cost = sequence_cost(config, TOKENS)
    assert cost.train == 3 * cost.forward


@pytest.mark.parametrize(("rank", "targets"), [(4, ()), (8, ()), (2, ("q_proj", "k_proj")), (8, ("down_proj",))])
def test_adapters_cost_what_peft_costs(rank: int, targets: tuple[str, ...]) -> None:
    model = build_model(SHAPE, 0)
    wanted = list(targets) or "all-linear"
    peft = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=wanted))
    ids = torch.zeros(3, TOKENS, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = peft(input_ids=ids).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    cost = sequence_cost(llama_config(SHAPE), TOKENS, rank, targets)
    assert forward.get_total_flops() == 3 * cost.forward
    assert forward.get_total_flops() + backward.get_total_flops() == 3 * cost.train


def test_an_adapter_on_fewer_layers_costs_what_its_products_cost() -> None:
    config = llama_config(SHAPE)
    base, width, inner = sequence_cost(config, TOKENS).forward, SHAPE.width, config.intermediate_size
    on = sequence_cost(config, TOKENS, 4, ("v_proj", "up_proj"))
    assert on.forward == base + 2 * TOKENS * SHAPE.depth * 4 * (2 * width + width + inner)
    assert on.train < sequence_cost(config, TOKENS, 4).train


def test_counting_leaves_torchs_random_state_alone_and_is_remembered() -> None:
    before = torch.random.get_rng_state()
    first = sequence_cost(llama_config(ModelShape(12, 1)), 6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sequence_cost(llama_config(ModelShape(12, 1)), 6) is first
    assert sequence_cost(llama_config(ModelShape(12, 1)), 12).train > 2 * first.train


@pytest.mark.parametrize("adapter", ["dora", "ia3", "adalora"])
def test_other_adapters_cost_what_peft_costs(adapter: str) -> None:
    """Within 5%: a validation pass of 32 sequences, and a training pass of two, with AdaLoRA's penalty."""
    config = llama_config(SHAPE)
    settings: PeftConfig = IA3Config()
    if adapter == "adalora":
        settings = AdaLoraConfig(init_r=4, target_modules="all-linear", total_step=1, task_type="CAUSAL_LM")
    if adapter == "dora":
        settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True)
    peft = get_peft_model(build_model(SHAPE, 0), settings)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        peft(input_ids=torch.zeros(32, TOKENS, dtype=torch.long))
    with FlopCounterMode(display=False) as both:
        ids = torch.zeros(2, TOKENS, dtype=torch.long)
        peft(input_ids=ids, labels=ids).loss.backward()
    cost = sequence_cost(config, TOKENS, 1 if adapter == "ia3" else 4, adapter=adapter)  # type: ignore[arg-type]
    assert 32 * cost.forward == pytest.approx(forward.get_total_flops(), rel=0.05)
    assert 2 * cost.train == pytest.approx(both.get_total_flops(), rel=0.05)
