"""What the levers turn, on a model and an optimizer without a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from transformers import LlamaConfig, LlamaModel, TrainingArguments
from transformers.optimization import Adafactor

from llmo.trainer.levers import Levers

RATE = 1e-3
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "multiplicative": lambda optimizer: schedulers.MultiplicativeLR(optimizer, lambda step: 0.9),
    "steps": lambda optimizer: schedulers.StepLR(optimizer, 3),
    "cosine": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 10),
    "warm restarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, 4),
    "chained": lambda optimizer: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)]
    ),
}


def parts(weight_decay: float, dropout: float = 0.0) -> tuple[Levers, nn.Module, Any]:
    """Three groups, of which the last is not decayed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(dropout), nn.Linear(4, 4), nn.Linear(4, 1))
    decays = (weight_decay, weight_decay, 0.0)
    layers = (model[0], model[2], model[3])
    groups = [{"params": layer.parameters(), "weight_decay": decay} for layer, decay in zip(layers, decays)]
    optimizer = torch.optim.AdamW(groups, RATE)
    return levers_on(model, optimizer, weight_decay), model, optimizer


def levers_on(model: nn.Module, optimizer: Any, weight_decay: float = 0.0) -> Levers:
    scheduler = schedulers.LambdaLR(optimizer, lambda step: 1.0)
    args = TrainingArguments("none", report_to=[], weight_decay=weight_decay)
    return Levers(args, model, optimizer, scheduler, 10, 0)


def regularisation(model: Any, optimizer: Any) -> tuple[list[float], float]:
    return [group["weight_decay"] for group in optimizer.param_groups], model[1].p


@pytest.mark.parametrize("turns", [("regularise_more", "regularise_less"), ("regularise_less", "regularise_more")])
def test_regularisation_that_is_turned_back_is_the_scripts_own(turns: tuple[str, str]) -> None:
    levers, model, optimizer = parts(0.05, 0.01)
    own = regularisation(model, optimizer)
    levers.apply(turns[0])
    assert regularisation(model, optimizer) != own
    levers.apply(turns[1])
    assert regularisation(model, optimizer) == own == ([0.05, 0.05, 0.0], 0.01)


def test_less_regularisation_is_never_more_dropout() -> None:
    levers, model, optimizer = parts(0.1, 0.0)
    levers.apply("regularise_less")
    assert regularisation(model, optimizer) == ([0.03, 0.03, 0.0], 0.0)


def test_resumed_levers_know_which_groups_are_decayed() -> None:
    """Also where the checkpoint was made while none was."""
    levers, _, optimizer = parts(0.01)
    levers.apply("regularise_less")
    _, model, loaded = parts(0.01)
    loaded.load_state_dict(optimizer.state_dict())
    resumed = levers_on(model, loaded, 0.01)
    resumed.restore(*levers.state())
    resumed.apply("regularise_more")
    assert regularisation(model, loaded) == ([0.01, 0.01, 0.0], 0.0)


def test_what_was_not_trained_at_the_best_is_left_as_it_is() -> None:
    """A layer that a script unfreezes later; and an optimizer that had not begun begins anew, with all it counts."""
    model = nn.Linear(4, 1)
    model.bias.requires_grad_(False)
    optimizer = Adafactor(model.parameters(), lr=RATE, relative_step=False, scale_parameter=False)
    levers, best = levers_on(model, optimizer), model.weight.detach().clone()
    levers.keep_best()
    model.bias.requires_grad_(True)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    bias = model.bias.detach().clone()
    levers.apply("rollback")
    assert torch.equal(model.weight, best) and torch.equal(model.bias, bias)
    assert not optimizer.state


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rate_stays_turned_with_any_scheduler(name: str) -> None:
    rates = []
    for turned in (False, True):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(model.parameters(), RATE)
        scheduler = SCHEDULERS[name](optimizer)
        levers = Levers(TrainingArguments("none", report_to=[]), model, optimizer, scheduler, 8, 0)
        rates.append([])
        for step in range(8):
            if turned and step in (2, 6):
                levers.apply("rate_x2" if step == 2 else "rate_x0.5")
            rates[-1].append(levers.rate)
            optimizer.step()
            scheduler.step()
    assert rates[1] == pytest.approx([rate * (2 if 2 <= step < 6 else 1) for step, rate in enumerate(rates[0])])


def test_rows_packed_without_padding_are_corrupted_too() -> None:
    config = LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    model = LlamaModel(config).train()
    levers_on(model, torch.optim.SGD(model.parameters(), RATE)).apply("augment_noise")
    met: list[Tensor] = []
    model.embed_tokens.register_forward_hook(lambda module, given, output: met.append(given[0]))
    ids = torch.arange(1, 33)
    model.embed_tokens(ids)
    assert met[0].shape == ids.shape and 0 < (met[0] != ids).sum() < 12
