"""AdamW, clipping and averaging on rows, both ways, against torch's own on single tensors."""

from collections.abc import Callable

import pytest
import torch

from llmo.engine.optimizer import BETAS, CLIP_NORM, Moments, Settings, average, row_norms, update_each, update_together

UPDATES = [update_each, update_together]


def moments(*shape: int) -> Moments:
    return Moments(torch.randn(*shape), torch.zeros(*shape), torch.zeros(*shape), torch.zeros(shape[0]))


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_rows_follow_torch_with_rates_and_decays_of_their_own(update: Callable[..., None], scale: float) -> None:
    torch.manual_seed(0)
    rows = moments(3, 40)
    averaged = torch.zeros(3, 40)
    settings = Settings([1e-2, 3e-3, 0.0], [0.0, 0.3, 0.1], [0.5, 0.25, 1.0])
    expected = [torch.nn.Parameter(row.clone()) for row in rows.values]
    means = [torch.zeros(40) for _ in expected]
    references = [
        torch.optim.AdamW([row], lr=rate, betas=BETAS, weight_decay=decay, foreach=False, fused=False)
        for row, rate, decay in zip(expected, settings.rates, settings.decays)
    ]
    for step in range(12):
        gradient = scale * torch.randn(3, 40)
        # A row that rests must not be changed by the others, whatever its gradient is.
        sound = torch.tensor([True, step % 2 == 0, True])
        if not sound[1]:
            gradient[1] = torch.nan
        for index in torch.nonzero(sound).flatten().tolist():
            means[index].lerp_(expected[index].detach(), settings.memory[index])
            expected[index].grad = gradient[index].clone()
            torch.nn.utils.clip_grad_norm_([expected[index]], CLIP_NORM)
            references[index].step()
        average(averaged, rows.values, settings, sound)
        update(rows, gradient, row_norms(gradient), settings, sound)
    torch.testing.assert_close(rows.values, torch.stack([row.detach() for row in expected]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(averaged, torch.stack(means), rtol=1e-5, atol=1e-6)
    assert rows.steps.tolist() == [12, 6, 12]


def test_reset_forgets_one_row_only() -> None:
    rows = Moments(*(torch.full(shape, 7.0) for shape in ((2, 4), (2, 4), (2, 4), (2,))))
    rows.reset(1)
    assert [part[0].sum().item() for part in (rows.first, rows.second, rows.steps)] == [28, 28, 7]
    assert [part[1].sum().item() for part in (rows.first, rows.second, rows.steps)] == [0, 0, 0]
    assert rows.values.eq(7).all()


def test_a_copied_row_is_whole() -> None:
    torch.manual_seed(0)
    rows, others = moments(3, 5), moments(2, 5)
    others.steps[1] = 4
    rows.copy_row(2, others, 1)
    for name in ("values", "first", "second", "steps"):
        assert torch.equal(getattr(rows, name)[2], getattr(others, name)[1])
