"""Models by shape and seed, and those that the package ships."""

import math

import pytest
import torch

from llmo.engine.models import PRETRAINED, VOCABULARY, ModelShape, build_model, load_pretrained
from llmo.errors import LlmoError
from llmo.mdp.sizes import SHAPES
from llmo.tasks.text import DOMAINS, load_corpus

NAMES = sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())


def test_a_shape_and_a_seed_give_one_model_and_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    a, b, c = (build_model(ModelShape(8, 1), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y)
        assert x.dim() == 1 or not torch.equal(x, z)


def test_every_shape_and_domain_has_a_base_and_every_domain_its_teachers() -> None:
    shapes = [shape for part in SHAPES.values() for shape in part]
    assert {f"base-{domain}-{shape}" for domain in DOMAINS for shape in shapes} <= set(NAMES)
    assert {f"teacher-{domain}-{kind}" for domain in DOMAINS for kind in ("good", "early")} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_small_readable_and_knows_its_domain(name: str) -> None:
    assert sum(file.stat().st_size for file in (PRETRAINED / name).iterdir()) < 4e6
    model = load_pretrained(name)
    assert not model.training and model.config.vocab_size == VOCABULARY
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())
    text = load_corpus().tokens[name.split("-")[1], "train", "validation"]
    ids = torch.from_numpy(text[: 64 * 32].astype("int64")).view(64, 32)
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss < 0.8 * math.log(VOCABULARY)


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LlmoError, match="base-prose-32x2"):
        load_pretrained("base-prose-32x3")
