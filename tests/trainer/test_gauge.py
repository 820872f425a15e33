"""What the gauge sees, against torch on all weights."""

import pytest
import torch

from llmo.trainer.gauge import SAMPLE, Gauge


def trained(width: int, steps: int = 3) -> tuple[torch.nn.Module, Gauge, torch.optim.Optimizer, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    gauge, gradients = Gauge(model), []
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, width)).square().mean().backward()
        gradients.append(torch.cat([m.weight.grad.flatten() for m in model if isinstance(m, torch.nn.Linear)]))
        gauge.look(step, optimizer)
        optimizer.step()
    return model, gauge, optimizer, [gradient.clone() for gradient in gradients]


def matrices(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters() if parameter.ndim > 1])


def test_small_models_are_looked_at_as_a_whole() -> None:
    width = 8
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    before = matrices(model)
    model, gauge, optimizer, gradients = trained(width)
    looks, ratio = gauge.close()
    assert width * width < SAMPLE
    torch.testing.assert_close(torch.tensor(looks.norms), torch.stack(gradients).norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity(gradients[1], gradients[2], dim=0)
    torch.testing.assert_close(torch.tensor(looks.gradient_cosine), cosine)
    after = matrices(model)
    torch.testing.assert_close(torch.tensor(ratio), (after - before).norm() / after.norm())
    assert gauge.close()[1] == 0.0


def test_large_ones_on_a_sample_that_tells_nearly_the_same() -> None:
    _, gauge, _, gradients = trained(128)
    looks, _ = gauge.close()
    torch.testing.assert_close(torch.tensor(looks.norms), torch.stack(gradients).norm(dim=1), rtol=0.1, atol=0)


def test_neighbours_alone_are_compared() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer, gauge = torch.optim.SGD(model.parameters(), 0.1), Gauge(model)
    for step in (0, 2):
        optimizer.zero_grad()
        model(torch.randn(2, 4)).sum().backward()
        gauge.look(step, optimizer)
    assert gauge.close()[0].gradient_cosine == 0.0


def test_moments_in_another_space_are_not_compared() -> None:
    """As of GaLore, which projects gradients."""
    model = torch.nn.Linear(4, 4)
    optimizer, gauge = torch.optim.SGD(model.parameters(), 0.1), Gauge(model)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.state[model.weight]["exp_avg"] = torch.ones(2, 4)
    gauge.look(0, optimizer)
    looks, _ = gauge.close()
    assert looks.norms and looks.momentum_cosine == 0.0


def test_the_first_ratio_is_that_of_adams_first_step() -> None:
    """Every weight moves by the rate."""
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 8, bias=False)
    optimizer, gauge = torch.optim.Adam(model.parameters(), 1e-3), Gauge(model)
    expected = gauge.first_ratio(1e-3)
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    assert gauge.close()[1] == pytest.approx(expected, rel=1e-2)


def test_it_goes_on_from_what_it_has_seen() -> None:
    model, gauge, _, _ = trained(8)
    other = Gauge(model)
    other.restore(*gauge.state())
    assert other.state()[0] == gauge.state()[0]
    assert other.close() == gauge.close()
