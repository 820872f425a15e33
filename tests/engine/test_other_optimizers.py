"""Optimizers on rows against torch, the schedulefree package and the formulas of their papers."""

from collections.abc import Callable

import pytest
import torch
from schedulefree import AdamWScheduleFree

from llmo.engine.optimizer import BETAS, Moments, Settings, row_norms, update_each, update_together
from llmo.engine.other_optimizers import begin, halfway, momentum, update_others
from llmo.hyperparameters import Optimizer

STEPS, RATE, DECAY = 12, 3e-3, 0.1


def quadratic(point: torch.Tensor) -> torch.Tensor:
    """A gradient with a norm below 1, so that nothing is clipped."""
    return 0.02 * (point - torch.linspace(-1, 1, len(point)))


def trained(optimizer: Optimizer, betas: tuple[float, float], decay: float) -> Moments:
    """Row 1 of three; the others rest."""
    torch.manual_seed(0)
    rows = Moments(torch.randn(3, 30), torch.zeros(3, 30), torch.zeros(3, 30), torch.zeros(3))
    begin(rows, 1, optimizer)
    others = rows.values[[0, 2]].clone()
    settings = Settings([0.0, RATE, 0.0], [decay] * 3, [0.0] * 3, [betas] * 3)
    for _ in range(STEPS):
        point = rows.values[1]
        if optimizer == "schedule_free":
            point = halfway(point, rows.first[1], betas[0])
        gradient = torch.stack([torch.full((30,), torch.nan), quadratic(point), torch.full((30,), torch.nan)])
        sound = torch.tensor([False, True, False])
        update_others([optimizer] * 3, rows, gradient, row_norms(gradient), settings, sound)
    assert torch.equal(rows.values[[0, 2]], others) and rows.steps.tolist() == [0, STEPS, 0]
    return rows


def start() -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(3, 30)[1].clone())


def test_sgd_is_torchs() -> None:
    point = start()
    reference = torch.optim.SGD([point], lr=RATE, momentum=0.9)
    for _ in range(STEPS):
        point.grad = quadratic(point.detach())
        reference.step()
    torch.testing.assert_close(trained("sgd", BETAS, 0.0).values[1], point.detach())


def test_schedule_free_is_that_of_its_authors() -> None:
    point = start()
    reference = AdamWScheduleFree([point], lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY, foreach=False)
    reference.train()
    for _ in range(STEPS):
        point.grad = quadratic(point.detach())
        reference.step()
    reference.eval()
    rows = trained("schedule_free", (0.9, 0.95), DECAY)
    torch.testing.assert_close(rows.values[1], point.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows.first[1], reference.state[point]["z"], rtol=1e-5, atol=1e-6)


def test_lion_is_that_of_the_paper() -> None:
    """Algorithm 2 of Chen et al. 2023."""
    beta1, beta2 = 0.95, 0.975
    point, memory = start().detach(), torch.zeros(30)
    for _ in range(STEPS):
        gradient = quadratic(point)
        update = torch.sign(beta1 * memory + (1 - beta1) * gradient)
        memory = beta2 * memory + (1 - beta2) * gradient
        point = point - RATE * (update + DECAY * point)
    rows = trained("lion", (beta1, 0.9), DECAY)
    torch.testing.assert_close(rows.values[1], point)
    torch.testing.assert_close(momentum("lion", rows, 1), memory)


@pytest.mark.parametrize("update", [update_each, update_together])
def test_adamw_with_moments_clipping_and_frozen_weights_of_its_own(update: Callable[..., None]) -> None:
    torch.manual_seed(0)
    rows = Moments(torch.randn(2, 40), torch.zeros(2, 40), torch.zeros(2, 40), torch.zeros(2))
    betas, clips, begins = [(0.8, 0.99), (0.95, 0.999)], [0.1, 3.0], [0, 16]
    settings = Settings([1e-2, 3e-3], [0.1, 0.3], [0.0, 0.0], betas, clips, begins)
    frozen = rows.values[1, :16].clone()
    expected = [torch.nn.Parameter(rows.values[row, first:].clone()) for row, first in enumerate(begins)]
    references = [
        torch.optim.AdamW([expected[row]], lr=settings.rates[row], betas=betas[row], weight_decay=settings.decays[row])
        for row in range(2)
    ]
    for _ in range(STEPS):
        gradient = torch.randn(2, 40)
        gradient[1, :16] = 0
        for row, first in enumerate(begins):
            expected[row].grad = gradient[row, first:].clone()
            torch.nn.utils.clip_grad_norm_([expected[row]], clips[row])
            references[row].step()
        update(rows, gradient, row_norms(gradient), settings, torch.tensor([True, True]))
    for row, first in enumerate(begins):
        torch.testing.assert_close(rows.values[row, first:], expected[row].detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(rows.values[1, :16], frozen)
