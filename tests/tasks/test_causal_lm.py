"""The fused distillation loss against torch's losses and autograd."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from llmo.errors import LlmoError
from llmo.tasks.causal_lm import CausalLM

N, B, T, V = 3, 2, 4, 7


def drawn(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of three replicas, labels, teachers of the first and the last (zeros for the other), and the weights."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, B, T, V, dtype=dtype, generator=generator)
    labels = torch.randint(V, (N, B, T), generator=generator)
    teacher = torch.randn(N, B, T, V, dtype=dtype, generator=generator).softmax(-1)
    teacher[1] = 0
    return logits, labels, teacher, torch.tensor([0.5, 0.0, 0.8], dtype=dtype)


def composed(logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    hard = cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view(labels.shape)
    soft = kl_div(logits.log_softmax(-1), teacher, reduction="none").sum(-1)
    share = weight.view(-1, 1, 1)
    return (1 - share) * hard + share * soft


def test_loss_and_gradient_are_torchs() -> None:
    logits, labels, teacher, weight = drawn(torch.float32)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    trained, reported = CausalLM.loss(ours, labels, teacher, weight)
    expected = composed(theirs, labels, teacher, weight)
    torch.testing.assert_close(trained, expected)
    hard = cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view(labels.shape)
    torch.testing.assert_close(reported, hard)
    upstream = torch.rand(N, B, T)
    trained.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradients_in_double_precision() -> None:
    logits, labels, teacher, weight = drawn(torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: CausalLM.loss(z, labels, None, None)[0], logits)
    assert torch.autograd.gradcheck(lambda z: CausalLM.loss(z, labels, teacher, weight)[0], logits)


def test_a_replica_without_a_teacher_is_untouched_by_the_others() -> None:
    logits, labels, teacher, weight = drawn(torch.float32)
    alone = CausalLM.loss(logits, labels, None, None)[0]
    mixed = CausalLM.loss(logits, labels, teacher, weight)[0]
    torch.testing.assert_close(alone[1], mixed[1], rtol=0, atol=0)
    assert not torch.equal(alone[0], mixed[0])


def test_extreme_logits_give_a_large_but_finite_loss() -> None:
    logits = torch.tensor([[[[0.0, 300.0, -500.0]]]])
    losses = [float(CausalLM.loss(logits, torch.tensor([[[i]]]), None, None)[0]) for i in range(3)]
    assert losses == pytest.approx([300, 0, 800])


def test_score_is_the_mean_over_tokens_of_each_replica() -> None:
    logits, labels, _, _ = drawn(torch.float32)
    windows = np.zeros((1, 5), np.int64)
    task = CausalLM((np.arange(9, dtype=np.int16),), windows, windows)
    expected = [cross_entropy(z.flatten(0, 1), y.flatten()).item() for z, y in zip(logits, labels, strict=True)]
    assert task.score(logits, labels).tolist() == pytest.approx(expected, rel=1e-6)


def test_windows_reach_from_the_first_token_to_the_last() -> None:
    windows = np.arange(10).reshape(2, 5)
    task = CausalLM((np.arange(9, dtype=np.int16), np.arange(100, 106, dtype=np.int16)), windows, windows)
    inputs, labels = task.draw(np.array([0, 0, 1, 1]), np.array([0.0, 1 - 2**-53, 0.0, 1 - 2**-53]))
    assert inputs.dtype == labels.dtype == np.int64
    assert inputs[:, 0].tolist() == [0, 4, 100, 101]
    assert np.all(np.diff(inputs, axis=1) == 1) and np.all(labels == inputs + 1)
    assert task.validation.inputs.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert task.validation.labels.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]


def test_a_source_shorter_than_a_window_is_refused() -> None:
    windows = np.zeros((1, 5), np.int64)
    with pytest.raises(LlmoError, match="source length"):
        CausalLM((np.arange(4, dtype=np.int16),), windows, windows)
