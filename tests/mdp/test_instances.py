import collections
import dataclasses
import hashlib
import math
from functools import cache

import numpy as np
import pytest
import torch

from llmo.actions.menu import MENU
from llmo.diagnostics.features import FEATURES
from llmo.engine.models import ModelShape, build_model
from llmo.errors import LlmoError
from llmo.mdp.instances import TEXT_GROUPS, WEIGHT_SCALE, Instance, draw_instance, draw_rescaled_instance
from llmo.mdp.population import Population
from llmo.mdp.problem import build_problem
from llmo.mdp.sizes import LEAST_INTERVAL, SHAPES, STEPS, TOKENS, Sizes, model_cost, plain_cost
from llmo.mdp.spec import env_spec
from llmo.tasks.text import DOMAINS, PARTS, load_corpus


@cache
def drawn(part: str) -> list[Instance]:
    return [draw_instance(part, index) for index in range(600)]


def windows(part: str, split: str) -> set[bytes]:
    """Every window of T + 1 tokens of a part's text."""
    size = 2 * (TOKENS + 1)
    texts = [np.ascontiguousarray(load_corpus().tokens[domain, part, split]).tobytes() for domain in DOMAINS]
    return {text[at : at + size] for text in texts for at in range(0, len(text) - size + 1, 2)}


def test_an_index_is_one_instance_and_one_problem() -> None:
    for part in PARTS:
        assert draw_instance(part, 7) == draw_instance(part, 7)
        one, other = build_problem(draw_instance(part, 7)), build_problem(draw_instance(part, 7))
        for field in dataclasses.fields(one):
            if field.name not in ("task", "weights", "teacher"):
                assert getattr(one, field.name) == getattr(other, field.name)
        assert one.weights.equal(other.weights)
        assert one.task.validation.inputs.equal(other.task.validation.inputs)
        assert one.task.test.labels.equal(other.task.test.labels)
        assert [a.tobytes() for a in one.task.sources] == [b.tobytes() for b in other.task.sources]


@pytest.mark.parametrize(
    ("part", "digest"), [("train", "8cc2d4751cda8726"), ("dev", "89d8a27b0c4feb7b"), ("test", "c1ad255313e1bdf1")]
)
def test_what_is_drawn_stays_the_same(part: str, digest: str) -> None:
    """The tuned values of the rules and all published scores belong to these instances."""
    names = "seed domain text_group start base damage teacher steps interval neutral closed rank target_modules".split()
    shown = [[getattr(instance, name) for name in names] for instance in drawn(part)[:100]]
    shown += [[str(i.shape), f"{i.rate_factor:.6g}", *(source.kind for source in i.sources)] for i in drawn(part)[:100]]
    assert hashlib.sha256(repr(shown).encode()).hexdigest()[:16] == digest


def test_parts_share_no_seed_and_no_shape() -> None:
    seeds = {part: {instance.seed for instance in drawn(part)} for part in PARTS}
    assert all(len(seeds[part]) == 600 for part in PARTS)
    assert all(seed % 3 == PARTS.index(part) and seed < 2**63 for part in PARTS for seed in seeds[part])
    shapes = [shape for part in PARTS for shape in SHAPES[part]]
    assert len(set(shapes)) == len(shapes)
    assert all({instance.shape for instance in drawn(part)} == set(SHAPES[part]) for part in PARTS)


def test_held_out_windows_stand_in_no_other_text() -> None:
    """Of 40 instances of each part: not in another part's held-out text, nor in any text that somebody trains on."""
    held_out = {
        (part, split): {
            row.tobytes()
            for instance in drawn(part)[:40]
            for examples in [getattr(build_problem(instance).task, split)]
            for row in np.c_[examples.inputs.numpy(), examples.labels.numpy()[:, -1]].astype(np.int16)
        }
        for part in PARTS
        for split in ("validation", "test")
    }
    assert all(len(found) > 300 for found in held_out.values())
    cells = {(part, split): windows(part, split) for part in PARTS for split in ("training", "validation", "test")}
    for place, found in held_out.items():
        assert found <= cells[place]
        for other, text in cells.items():
            if other != place:
                assert not found & text, (place, other)


def test_text_groups_share_no_window() -> None:
    """Instances of one domain and part with different groups validate on different text."""
    rows = collections.defaultdict(set)
    for instance in drawn("dev"):
        if instance.domain == "code" and len(rows[instance.text_group]) < 64:
            task = build_problem(instance).task
            rows[instance.text_group] |= {row.tobytes() for row in task.validation.inputs.numpy()}
    assert len(rows) == TEXT_GROUPS
    assert sum(map(len, rows.values())) == len(set.union(*rows.values()))


@pytest.mark.parametrize("part", PARTS)
def test_sources_are_of_the_parts_own_training_text(part: str) -> None:
    corpus = load_corpus()
    for instance in drawn(part)[:12]:
        for source, material in zip(instance.sources, build_problem(instance).task.sources, strict=True):
            text = corpus.tokens[source.domain, part, "training"]
            assert (source.domain == instance.domain) == (source.kind in ("clean", "noisy"))
            share = len(material) * corpus.bytes[source.domain, part, "training"] / len(text) / source.bytes
            assert share == pytest.approx(1, abs=0.02) or len(material) in (len(text), 4 * TOKENS)
            if source.kind in ("clean", "off_domain"):
                assert material.tobytes() in text.tobytes()
            else:
                # Where it was taken from, all but the replaced tokens are the same; a few are replaced by themselves.
                head = material[:400]
                places = np.lib.stride_tricks.sliding_window_view(text, len(head))
                kept = max((part == head).mean(1).max() for part in np.array_split(places, 20))
                assert kept == pytest.approx(1 - source.noise, abs=0.15)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_drawn_spans_its_ranges(part: str) -> None:
    found = drawn(part)
    budgets = [instance.budget for instance in found]
    assert 12 < max(budgets) / min(budgets) < 18
    rates = [math.log10(instance.rate_factor) for instance in found]
    assert -1.5 <= min(rates) < -1.45 and 1.45 < max(rates) <= 1.5
    sizes = [source.bytes for instance in found for source in instance.sources]
    assert 2_000 <= min(sizes) < 2_100 and 190_000 < max(sizes) <= 200_000
    assert np.median(np.log10(sizes)) == pytest.approx(math.log10(20_000), abs=0.1)
    changes = [[share for share, _ in instance.changes] for instance in found]
    assert {len(shares) for shares in changes} == {0, 1, 2}
    assert all(0.25 <= share <= 0.75 for shares in changes for share in shares)
    assert {instance.steps for instance in found} == set(range(14, 25))
    assert min(instance.interval for instance in found) == 8
    assert {source.kind for instance in found for source in instance.sources} == {
        "clean",
        "noisy",
        "off_domain",
        "both",
    }
    assert {instance.start for instance in found} == {"scratch", "pretrained"}
    assert {instance.damage > 0 for instance in found if instance.start == "pretrained"} == {True, False}
    assert all(instance.base != instance.domain for instance in found)
    assert {instance.teacher.rpartition("-")[2] for instance in found} == {"", "good", "early"}


def test_only_train_instances_hide_and_close() -> None:
    closed = {part: [i for i in drawn(part) if i.closed or i.neutral] for part in PARTS}
    assert 0.1 < len(closed["train"]) / 600 < 0.3
    assert not closed["dev"] and not closed["test"]


def test_a_change_gives_every_slot_a_material_and_moves_one() -> None:
    for instance in drawn("train"):
        orders = [(0, 1, 2), *(order for _, order in instance.changes)]
        assert all(sorted(order) == [0, 1, 2] for order in orders)
        assert all(before != after for before, after in zip(orders, orders[1:]))


def test_the_budget_scale_changes_the_budget_alone() -> None:
    whole, half = draw_instance("test", 3), draw_instance("test", 3, 0.5)
    assert half.budget == pytest.approx(whole.budget / 2)
    assert dataclasses.replace(half, budget=whole.budget) == whole


@pytest.mark.parametrize("part", PARTS)
def test_the_budget_pays_the_steps(part: str) -> None:
    """An episode that only keeps has exactly the steps that were drawn, with a teacher to measure first."""
    cheap = min((i for i in drawn(part) if i.teacher), key=lambda instance: instance.budget)
    spec = env_spec("llmo/LanguageModel-v0")
    population = Population(spec)
    population.reset({0: cheap})
    steps = 0
    while not population.episode(0).ended:
        steps += population.step({0: spec.menu.index("keep")})[0].measurement.optimizer_steps == cheap.interval
    assert steps == cheap.steps
    assert population.episode(0).history.last.spent == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "given", [("tset", 0), ("dev", -1), ("dev", 1.0), ("dev", True), ("dev", 0, 0.0), ("dev", 0, math.nan)]
)
def test_what_cannot_be_drawn_is_refused(given: tuple) -> None:
    with pytest.raises(LlmoError):
        draw_instance(*given)


def test_weights_of_another_scale_compute_the_same() -> None:
    """In llmo/LanguageModel-v1, whatever the start; and no instance of it is one of version 0."""
    gpt2 = ModelShape(32, 2, "gpt2")
    others = [draw_rescaled_instance("test", index, sizes=Sizes(gpt2, gpt2)) for index in range(6)]
    assert {instance.start for instance in others} == {"scratch", "pretrained"}
    for instance in [*(draw_rescaled_instance("train", index) for index in range(12)), *others]:
        assert 1 / WEIGHT_SCALE <= instance.weight_scale <= WEIGHT_SCALE
        plain = dataclasses.replace(instance, weight_scale=1.0)
        losses = []
        for one in (instance, plain):
            problem = build_problem(one)
            model = build_model(one.shape, 0).eval()
            with torch.no_grad():
                for parameter, values in zip(model.parameters(), problem.weights.split(sizes(model)), strict=True):
                    parameter.copy_(values.view_as(parameter))
                logits = model(problem.task.validation.inputs).logits
            losses.append(problem.task.score(logits, problem.task.validation.labels))
        assert torch.allclose(*losses, rtol=2e-3)
        assert instance.seed != draw_instance(instance.part, instance.index).seed
    scales = np.log([draw_rescaled_instance("train", index).weight_scale for index in range(400)])
    assert abs(scales.mean()) < 0.2
    assert scales.std() == pytest.approx(math.log(WEIGHT_SCALE) / math.sqrt(3), rel=0.1)


def sizes(model: torch.nn.Module) -> list[int]:
    return [parameter.numel() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("env", "shape", "smallest", "budgets"),
    [
        ("Large", "56x3", ModelShape(56, 3), (1, 16)),
        ("Long", "40x2", ModelShape(24, 1), (16, 64)),
        ("GPT2", "gpt2-32x2", ModelShape(32, 2, "gpt2"), (1, 16)),
    ],
)
def test_what_policies_are_carried_over_to(
    env: str, shape: str, smallest: ModelShape, budgets: tuple[int, int]
) -> None:
    """Shapes and budgets, in multiples of the least that the smallest model can have; as many steps as ever."""
    spec = env_spec(f"llmo/LanguageModel-{env}-v1")
    instances = [spec.draw("test", index, 1.0) for index in range(200)]
    assert {str(instance.shape) for instance in instances} == {shape}
    unit = 14 * plain_cost(model_cost(smallest), LEAST_INTERVAL)
    plain = [one.steps * plain_cost(model_cost(one.shape), one.interval) / unit for one in instances]
    assert budgets[0] * 0.85 < min(plain) < budgets[0] * 1.3
    assert budgets[1] * 0.75 < max(plain) < budgets[1] * 1.15
    assert {instance.steps for instance in instances} <= set(range(STEPS[0], STEPS[1] + 1))


@pytest.mark.parametrize(
    ("env", "closed", "neutral"),
    [
        ("NoData", ("source", "augment"), ()),
        ("NoSwaps", ("adapter", "distil", "rollback", "load"), ()),
        ("NoGradients", (), ("gradient",)),
        ("NoHistory", (), ("actions",)),
    ],
)
def test_ablations_play_the_same_instances(env: str, closed: tuple[str, ...], neutral: tuple[str, ...]) -> None:
    spec = env_spec(f"llmo/LanguageModel-{env}-v1")
    population = Population(spec)
    for index in range(3):
        full = draw_rescaled_instance("test", index)
        instance = spec.draw("test", index, 1.0)
        assert dataclasses.replace(instance, neutral=()) == full
        population.reset({0: instance})
        population.step({0: spec.menu.index("rate_x2")})
        assert set(MENU) - set(spec.menu) == {name for name in MENU if name.startswith(closed)}
        observed = population.observe(0)
        for place, feature in enumerate(FEATURES):
            assert observed[place] == 0 or feature.group not in neutral
