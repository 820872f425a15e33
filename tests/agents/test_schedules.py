import math
from typing import Any

import pytest
import torch
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup, get_wsd_schedule

from llmo import catalog
from llmo.errors import LlmoError

STEPS = 40


def torch_rates(make: Any) -> list[float]:
    """What a torch scheduler does to a rate of 1 over `STEPS` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def own_rates(name: str, **parameters: Any) -> list[float]:
    (schedule,) = catalog.make_agent(name, scratch=1.0, pretrained=7.0, **parameters).schedules(["scratch"])
    return [schedule(step / STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("warmup", [0, 4, 8])
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_cosine(warmup: int, floor: float) -> None:
    theirs = torch_rates(
        lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, STEPS, min_lr_rate=floor)
    )
    # Theirs adds the floor to the warm-up too, ours rises from zero to the peak.
    ours = own_rates("cosine", warmup=warmup / STEPS, floor=floor)
    assert ours[warmup:] == pytest.approx(theirs[warmup:], abs=1e-6)
    assert ours[:warmup] == pytest.approx([step / max(1, warmup) for step in range(warmup)])


@pytest.mark.parametrize("warmup", [0, 4, 8])
def test_linear(warmup: int) -> None:
    theirs = torch_rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, warmup, STEPS))
    assert own_rates("linear", warmup=warmup / STEPS) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("warmup", "decay"), [(0, 8), (4, 20), (8, 32)])
def test_warmup_stable_decay(warmup: int, decay: int) -> None:
    theirs = torch_rates(
        lambda optimizer: get_wsd_schedule(
            optimizer, warmup, decay, num_stable_steps=STEPS - warmup - decay, decay_type="linear"
        )
    )
    assert own_rates("wsd", warmup=warmup / STEPS, decay=decay / STEPS) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("factor", "drops"), [(0.5, 1), (0.1, 3), (0.7, 4)])
def test_step(factor: float, drops: int) -> None:
    theirs = torch_rates(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, STEPS // (drops + 1), factor))
    assert own_rates("step", factor=factor, drops=drops) == pytest.approx(theirs[: STEPS // (drops + 1) * (drops + 1)])


def test_step_ends_at_its_last_drop() -> None:
    (schedule,) = catalog.make_agent("step", scratch=1.0, factor=0.1, drops=2).schedules(["scratch"])
    assert schedule(1.0) == pytest.approx(0.01)


def test_tracking_is_constant_then_linear() -> None:
    (schedule,) = catalog.make_agent("tracking", scratch=2.0, decay=0.5).schedules(["scratch"])
    assert [schedule(spent) for spent in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([2, 2, 2, 1, 0])


RULES = ("constant", "cosine", "linear", "step", "wsd", "plateau", "curriculum", "explore_then_commit", "tracking")


@pytest.mark.parametrize("name", RULES)
def test_peaks_are_apart_and_reached(name: str) -> None:
    agent = catalog.make_agent(name, scratch=3.0, pretrained=0.5)
    schedules = agent.schedules(["pretrained", "scratch", "pretrained"])
    peaks = [max(schedule(spent / 1000) for spent in range(1001)) for schedule in schedules]
    assert peaks == pytest.approx([0.5, 3.0, 0.5])
    assert all(math.isfinite(schedule(1.0)) and schedule(1.0) >= 0 for schedule in schedules)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *((name, {"scratch": 0.0}) for name in RULES),
        ("constant", {"pretrained": float("nan")}),
        ("cosine", {"warmup": 1.0}),
        ("cosine", {"floor": -0.1}),
        ("linear", {"warmup": -0.1}),
        ("wsd", {"decay": 1.1}),
        ("step", {"factor": 0.0}),
        ("step", {"drops": 0}),
        ("plateau", {"factor": 1.5}),
        ("plateau", {"patience": -1}),
        ("curriculum", {"probe": 0}),
        ("curriculum", {"average_from": 2.0}),
        ("explore_then_commit", {"rounds": 0}),
        ("reflection", {"patience": 0}),
        ("reflection", {"margin": -1.0}),
        ("bandit", {"exploration": 0.0}),
        ("cosine", {"warmpu": 0.1}),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, parameters: dict[str, float]) -> None:
    with pytest.raises(LlmoError, match=next(iter(parameters))):
        catalog.make_agent(name, **parameters)
