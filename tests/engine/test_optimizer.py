"""AdamW and clipping on rows, against torch's own on single tensors."""

import pytest
import torch

from llmo.engine.optimizer import BETAS, CLIP_NORM, RowAdamW, clip_rows


def test_rows_follow_torch_adamw_with_rates_and_decays_of_their_own() -> None:
    torch.manual_seed(0)
    weights = torch.randn(3, 40)
    rates, decays = [1e-2, 3e-3, 0.0], [0.0, 0.3, 0.1]
    expected = [row.clone().requires_grad_() for row in weights]
    references = [
        torch.optim.AdamW([row], lr=rate, betas=BETAS, weight_decay=decay, foreach=False, fused=False)
        for row, rate, decay in zip(expected, rates, decays)
    ]
    rows = weights.clone()
    optimizer = RowAdamW(rows, (torch.zeros(3, 40), torch.zeros(3, 40), torch.zeros(3)))
    for step in range(12):
        for index in range(3):
            if index == 1 and step % 2:
                continue  # A row that rests must not be changed by the others.
            gradient = torch.randn(40)
            expected[index].grad = gradient.clone()
            references[index].step()
            optimizer.step(index, gradient, rates[index], decays[index])
    torch.testing.assert_close(rows, torch.stack([row.detach() for row in expected]), rtol=1e-5, atol=1e-6)


def test_reset_forgets_one_row_only() -> None:
    moments = torch.ones(2, 4), torch.ones(2, 4), torch.full((2,), 7.0)
    optimizer = RowAdamW(torch.zeros(2, 4), moments)
    optimizer.reset(1)
    assert [float(moment[0].sum()) for moment in moments] == [4, 4, 7]
    assert [float(moment[1].sum()) for moment in moments] == [0, 0, 0]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_clipping_is_torchs(scale: float) -> None:
    torch.manual_seed(1)
    gradient = scale * torch.randn(4, 50)
    expected = gradient.clone()
    norms = []
    for row in expected:
        parameter = torch.zeros(50, requires_grad=True)
        parameter.grad = row
        norms.append(float(torch.nn.utils.clip_grad_norm_([parameter], CLIP_NORM)))
    assert clip_rows(gradient) == pytest.approx(norms, rel=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=2e-6, atol=0)
