"""Rows share tensors with their snapshots and their best, and nothing that was shared changes any more."""

import pytest
import torch

from llmo.engine.intervals import SAMPLED_FROM, sampled
from llmo.engine.layout import Layout
from llmo.engine.models import ModelShape, build_model
from llmo.engine.optimizer import AVERAGE_EVERY, averaging
from llmo.engine.rows import Row, Tensors
from llmo.evaluation.compare import difference


def copied(moment: Tensors) -> Tensors:
    parts = {name: part.clone() for name, part in vars(moment).items() if isinstance(part, torch.Tensor)}
    return Tensors(**{**vars(moment), **parts, "kept": {name: kept.clone() for name, kept in moment.kept.items()}})


@pytest.fixture
def row() -> Row:
    layout = Layout(build_model(ModelShape(8, 1), 0))
    row = Row(layout, torch.device("cpu"))
    row.start(torch.arange(layout.size, dtype=torch.float32))
    return row


def go_on(row: Row, by: float) -> None:
    """What an interval in place does."""
    row.own_full().values.add_(by)
    row.own_full().steps.add_(1)
    row.own_average().add_(by)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_moment_stays_as_it_was_whatever_the_row_does(row: Row, elsewhere: bool) -> None:
    moments, kept = [], []
    for step in range(12):
        if elsewhere:
            source = row.full
            source = type(source)(source.values + step, source.first + 1, source.second + 2, source.steps + 1)
            row.write(source, None, row.averaged[None] + step, 0)
        else:
            go_on(row, step)
        if step % 2:
            row.keep_best()
        if step % 3 == 0:
            moments.append(row.share())
            kept.append(copied(moments[-1]))
        if step == 7:
            row.load_best()
        if step == 9:
            row.take(moments[1])
    for moment, as_it_was in zip(moments, kept, strict=True):
        assert not difference(moment, as_it_was)


def test_the_best_stays_while_the_row_goes_on_and_memory_is_used_again(row: Row) -> None:
    places = set()
    for step in range(6):
        go_on(row, 1.0)
        assert not torch.equal(row.weights, row.best_weights)
        row.keep_best()
        assert row.weights.data_ptr() == row.best_weights.data_ptr()
        places.add(row.weights.data_ptr())
        assert row.full.steps.item() == step + 1
    # The first block holds what the row started with; after that two take turns.
    assert len(places) == 2


def test_adapters_come_and_go(row: Row) -> None:
    row.own_lora().values.add_(1.0)
    with_adapter = row.share()
    row.drop_adapter()
    assert row.lora is None and row.factors is None
    row.take(with_adapter)
    assert row.factors is not None and row.factors.min() == 1


@pytest.mark.parametrize("interval", [1, 2, 8, 9, 15, 16, 17, 100])
def test_an_average_forgets_alike_whatever_the_interval(interval: int) -> None:
    memories = [averaging(step, interval) for step in range(interval)]
    left = 1.0
    for memory in memories:
        left *= 1 - memory
    assert 0.5 <= left < 0.61
    looks = [step for step, memory in enumerate(memories) if memory]
    assert looks[-1] == interval - 1
    assert all(later - earlier <= AVERAGE_EVERY for earlier, later in zip([-1, *looks], looks, strict=False))


@pytest.mark.parametrize("width", [128, 160, 192, 256])
def test_a_sample_of_a_large_model_sees_every_column_alike(width: int) -> None:
    weights = torch.arange(width).repeat(SAMPLED_FROM * 8 // width).float()
    counts = torch.bincount(sampled(weights).long(), minlength=width)
    assert counts.min() > 0.9 * counts.max() and len(sampled(weights)) > len(weights) / 20
    assert sampled(weights[: SAMPLED_FROM - 1]).data_ptr() == weights.data_ptr()
