"""DoRA, IA3 and AdaLoRA on flat rows are PEFT's; a lower rank and the mean of two are the nearest there are."""

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model

from llmo.engine.adapter_kinds import KINDS, kinds_gradient, merge_kinds
from llmo.engine.executors import Batch
from llmo.engine.layout import MAX_RANK
from llmo.engine.low_rank import average_factors, shrink
from llmo.engine.models import ModelShape, build_model
from llmo.engine.single import Single
from llmo.hyperparameters import Adapter
from llmo.tasks.causal_lm import CausalLM

SHAPES = [ModelShape(8, 2), ModelShape(8, 2, "gpt2")]


def in_peft(shape: ModelShape, kind: Adapter) -> Any:
    """A PEFT model whose adapter does something."""
    fan = shape.family == "gpt2"
    settings: Any = IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=fan)
    if kind == "dora":
        settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True, fan_in_fan_out=fan)
    if kind == "adalora":
        settings = AdaLoraConfig(
            init_r=4, lora_alpha=8, target_modules="all-linear", total_step=1, fan_in_fan_out=fan, task_type="CAUSAL_LM"
        )
    peft = get_peft_model(build_model(shape, 0), settings).train()
    torch.manual_seed(0)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return peft


def row_of(layout: Any, peft: Any, kind: Adapter, gradient: bool = False) -> torch.Tensor:
    """What PEFT trains, or its gradient, as an adapter row."""
    row = torch.zeros(1, layout.adapter_width)
    modules = {name.removeprefix("base_model.model."): module for name, module in peft.named_modules()}

    def read(parameter: Any) -> torch.Tensor:
        found: torch.Tensor = parameter.grad if gradient else parameter.data
        return found.flatten()

    for linear in layout.linears:
        module, (a, b) = modules[linear.name], linear.factors(row)
        if kind == "adalora":
            rank = len(module.lora_E["default"])
            a[0, :rank] = read(module.lora_A["default"]).view(rank, -1)
            b[0, :, :rank] = read(module.lora_B["default"]).view(-1, rank)
            linear.scales(row, rank)[0] = read(module.lora_E["default"])
        elif kind == "dora":
            a[0, :4] = read(module.lora_A["default"].weight).view(4, -1)
            b[0, :, :4] = read(module.lora_B["default"].weight).view(-1, 4)
            linear.scales(row, linear.outputs)[0] = read(module.lora_magnitude_vector["default"].weight)
        elif hasattr(module, "ia3_l"):
            scales = read(module.ia3_l["default"])
            linear.scales(row, len(scales))[0] = scales
    return row


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["dora", "ia3", "adalora"])
def test_logits_and_gradients_are_pefts(kind: Adapter, shape: ModelShape) -> None:
    compare(in_peft(shape, kind), shape, kind)


def compare(peft: Any, shape: ModelShape, kind: Adapter) -> None:
    """Logits and gradients with a PEFT model's; AdaLoRA's penalty is in PEFT's loss."""
    executor = Single(build_model(shape, 0))
    layout = executor.layout
    weights = torch.zeros(1, layout.width)
    weights[0, : layout.size] = layout.flatten(build_model(shape, 0))
    row = row_of(layout, peft, kind)
    ids = torch.randint(0, 64, (3, 9), generator=torch.Generator().manual_seed(1))
    inputs, labels = ids[:, :-1], ids[:, 1:]
    changed = merge_kinds(layout, weights.clone(), row, [kind])
    given = peft(input_ids=ids, labels=ids)
    torch.testing.assert_close(executor.logits(changed, inputs[None], 8)[0], given.logits[:, :-1], rtol=1e-4, atol=1e-5)

    given.loss.backward()
    _, gradient = executor.gradient(changed, Batch(inputs[None], labels[None], CausalLM.loss))
    found, (width,) = kinds_gradient(layout, gradient[:], weights, row, [kind])
    torch.testing.assert_close(found, row_of(layout, peft, kind, gradient=True), rtol=1e-3, atol=1e-6)
    assert width == layout.adapter_width


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adalora_whose_ranks_differ_by_layer_is_pefts(shape: ModelShape) -> None:
    peft = in_peft(shape, "adalora")
    names = [name for name, _ in peft.base_model.model.named_parameters() if "lora_E" in name]
    pattern = {name: [True] * (1 + place % 4) + [False] * (3 - place % 4) for place, name in enumerate(names)}
    peft.base_model.resize_modules_by_rank_pattern(pattern, "default")
    ranks = {module.lora_A["default"].shape[0] for module in peft.modules() if hasattr(module, "lora_E")}
    assert ranks == {1, 2, 3, 4}
    compare(peft, shape, "adalora")


def test_adalora_drops_the_least_important_half_of_all_triplets() -> None:
    executor = Single(build_model(SHAPES[0], 0))
    layout, row = executor.layout, torch.zeros(executor.layout.adapter_width)
    KINDS["adalora"].begin(layout, row, row, 4, 0)
    generator = torch.Generator().manual_seed(0)
    for place, linear in enumerate(layout.linears):
        linear.scales(row[None], 4)[0] = (1 + place) * torch.randn(4, generator=generator)

    def singular() -> list[torch.Tensor]:
        # Of rank-1 matrices, by their own norms.
        found = []
        for linear in layout.linears:
            (a,), (b,) = linear.factors(row[None])
            e = linear.scales(row[None], MAX_RANK)[0]
            found.append(torch.stack([(b[:, [i]] * e[i] @ a[[i]]).norm() for i in range(MAX_RANK)]))
        return found

    before = torch.stack(singular())
    KINDS["adalora"].shrink(layout, row, 2)
    after = torch.stack(singular())
    threshold = before.flatten().sort(descending=True).values[2 * len(layout.linears)]
    assert torch.equal(after > 0, before > threshold)
    torch.testing.assert_close(after[after > 0], before[after > 0], rtol=0, atol=0)
    assert len({int(layer.count_nonzero()) for layer in after}) > 1, "ranks differ by layer"
    gradient = KINDS["adalora"].gradient(layout, torch.randn(1, layout.width), torch.zeros(1), row[None])
    dropped = [linear.factors(gradient)[0][0][layer == 0] for linear, layer in zip(layout.linears, after)]
    assert not torch.cat([rows.flatten() for rows in dropped]).any(), "what is gone stays so"


def test_a_fresh_adalora_loses_as_many_in_each_layer() -> None:
    executor = Single(build_model(SHAPES[0], 0))
    layout, row = executor.layout, torch.zeros(executor.layout.adapter_width)
    KINDS["adalora"].begin(layout, row, row, 4, 0)
    KINDS["adalora"].shrink(layout, row, 2)
    assert {int(linear.factors(row[None])[0][0].any(1).sum()) for linear in layout.linears} == {2}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_fresh_adapter_changes_nothing(kind: Adapter) -> None:
    executor = Single(build_model(SHAPES[0], 0))
    layout, row = executor.layout, torch.zeros(executor.layout.adapter_width)
    weights = torch.zeros(1, layout.width)
    weights[0, : layout.size] = layout.flatten(build_model(SHAPES[0], 0))
    KINDS[kind].begin(layout, weights[0], row, 4, 0)
    changed = merge_kinds(layout, weights.clone(), row[None], [kind])
    torch.testing.assert_close(changed, weights, rtol=0, atol=1e-6)
    assert row.abs().sum() > 0 and not row[KINDS[kind].width(layout) :].any()


def two_rows() -> tuple[Any, torch.Tensor]:
    layout = Single(build_model(SHAPES[0], 0)).layout
    rows, generator = torch.zeros(2, layout.adapter_width), torch.Generator().manual_seed(0)
    for linear in layout.linears:
        a, b = linear.factors(rows)
        a[:, :4] = torch.randn(2, 4, linear.inputs, generator=generator)
        b[:, :, :4] = torch.randn(2, linear.outputs, 4, generator=generator)
    return layout, rows


def products(layout: Any, row: torch.Tensor) -> list[torch.Tensor]:
    return [b[0] @ a[0] for a, b in (linear.factors(row[None]) for linear in layout.linears)]


def nearest(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(matrix)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def test_a_lower_rank_keeps_what_it_can() -> None:
    layout, rows = two_rows()
    before = products(layout, rows[0])
    shrink(layout, rows[0], 2)
    for linear, was, now in zip(layout.linears, before, products(layout, rows[0]), strict=True):
        torch.testing.assert_close(now, nearest(was, 2), rtol=1e-4, atol=1e-4)
        a, b = linear.factors(rows[:1])
        assert not a[0, 2:].any() and not b[0, :, 2:].any()


def test_the_mean_of_two_adapters_is_pefts_svd_combination() -> None:
    """`add_weighted_adapter(..., combination_type="svd")`, with half of the weight for each."""
    layout, rows = two_rows()
    peft = get_peft_model(
        build_model(SHAPES[0], 0), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), adapter_name="one"
    )
    peft.add_adapter("two", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    modules = {name.removeprefix("base_model.model."): module for name, module in peft.named_modules()}
    for linear in layout.linears:
        a, b = linear.factors(rows)
        for index, name in enumerate(("one", "two")):
            modules[linear.name].lora_A[name].weight.data.copy_(a[index, :4])
            modules[linear.name].lora_B[name].weight.data.copy_(b[index, :, :4])
    peft.add_weighted_adapter(["one", "two"], [0.5, 0.5], "mean", combination_type="svd", svd_rank=4)
    average_factors(layout, rows[0], rows[1].clone(), 4)
    for linear, now in zip(layout.linears, products(layout, rows[0]), strict=True):
        module = modules[linear.name]
        expected = module.lora_B["mean"].weight @ module.lora_A["mean"].weight * module.scaling["mean"] / 2
        torch.testing.assert_close(now, expected.detach(), rtol=1e-3, atol=1e-3)
