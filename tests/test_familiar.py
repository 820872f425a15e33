"""What a policy knows, against scipy's distance; and agents that go on by the usual recipe where they know nothing."""

from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance

from llmo import catalog
from llmo.agent import LearningAgent, Space
from llmo.cautious import CautiousAgent, tuning_agent
from llmo.diagnostics.features import INDEX, NAMES
from llmo.errors import LlmoError
from llmo.evaluation.result import policy_job
from llmo.familiar import FILE, MARGIN, NOISE, Familiar
from llmo.policy_file import policy_sha256

MENU = ("keep", "rate_x2", "rate_decay", "rate_default", "augment_noise")


@pytest.fixture
def observations() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((400, 5)) @ rng.standard_normal((5, len(NAMES)))
    return (0.3 * mixed).astype(np.float32)


def test_distances_are_those_of_scipy(observations: np.ndarray) -> None:
    familiar = Familiar.of(observations)
    covariance = np.cov(observations.astype(float), rowvar=False) + NOISE**2 * np.eye(len(NAMES))
    inverse = np.linalg.inv(covariance)
    wanted = [scipy.spatial.distance.mahalanobis(row, observations.mean(0), inverse) ** 2 for row in observations[:9]]
    np.testing.assert_allclose(familiar.distances(observations[:9]), wanted, rtol=1e-3)
    assert familiar.limit == pytest.approx(MARGIN * familiar.distances(observations).max())


def test_what_is_strange_is_named(observations: np.ndarray) -> None:
    familiar = Familiar.of(observations)
    strange = observations[0].copy()
    strange[INDEX["update_ratio"]] += 9.0
    assert familiar.distances(strange[None])[0] > familiar.limit
    assert NAMES[familiar.strangest(strange)] == "update_ratio"


def test_it_comes_back_from_its_file(observations: np.ndarray, tmp_path: Path) -> None:
    familiar = Familiar.of(observations)
    familiar.save(tmp_path)
    stored = Familiar.load(tmp_path)
    assert stored is not None
    np.testing.assert_array_equal(stored.distances(observations), familiar.distances(observations))
    assert stored.limit == familiar.limit
    assert Familiar.load(tmp_path / "empty") is None
    (tmp_path / FILE).write_bytes(b"no such file")
    with pytest.raises(LlmoError, match=FILE):
        Familiar.load(tmp_path)


@pytest.mark.parametrize(
    ("spent", "rate", "decaying", "gap", "allowed", "wanted"),
    [
        (-0.5, -0.7, 0, 0, MENU, "rate_default"),
        (-0.5, 0.0, 0, 0, MENU, "rate_decay"),
        (0.5, -0.7, 0, 0, MENU, "rate_decay"),
        (-0.5, -0.7, 1, 0, ("keep", "rate_x2", "rate_default"), "keep"),
        (-0.5, -0.7, 0, 0, ("keep", "rate_x2"), "keep"),
        (-0.5, 0.0, 0, -0.6, MENU, "rate_decay"),
        (-0.5, 0.0, 1, -0.6, ("keep", "augment_noise"), "augment_noise"),
        (-0.5, 0.0, 1, -0.4, ("keep", "augment_noise"), "keep"),
        (-0.5, 0.0, 1, -0.6, ("keep",), "keep"),
        (0.1, 0.0, 1, -0.6, ("keep", "augment_noise"), "keep"),
    ],
)
def test_an_agent_is_asked_where_it_knows_its_way_alone(
    observations: np.ndarray,
    spent: float,
    rate: float,
    decaying: float,
    gap: float,
    allowed: tuple[str, ...],
    wanted: str,
) -> None:
    agent = CautiousAgent(catalog.make_agent("keep"), Familiar.of(observations))
    agent.bind(Space(MENU, NAMES))
    agent.reset([0, 1])
    strange = observations[0] + 9
    strange[[INDEX[name] for name in ("spent", "base_rate", "decaying", "train_gap")]] = spent, rate, decaying, gap
    mask = np.array([[action in allowed for action in MENU]] * 2)
    chosen = agent.act(np.stack([observations[0], strange]), mask, np.ones(2, bool))
    assert [MENU[action] for action in chosen] == ["keep", wanted]
    assert [reason.startswith("the usual recipe") for reason in agent.explain()] == [False, True]


def test_the_shipped_policy_says_what_it_knows() -> None:
    kind = catalog.get("agents", "ppo")
    assert issubclass(kind, LearningAgent) and kind.shipped is not None and kind.shipped_own is not None
    for folder in (kind.shipped, kind.shipped_own):
        familiar = Familiar.load(folder)
        assert familiar is not None and familiar.limit > len(NAMES)


def test_peoples_own_models_are_trained_by_the_policy_for_them() -> None:
    kind = catalog.get("agents", "ppo")
    agent = tuning_agent("ppo")
    assert isinstance(agent, CautiousAgent)
    assert agent._agent.policy == str(kind.shipped_own)  # type: ignore[attr-defined]
    assert policy_job("llmo/LanguageModel-v1", "dev", 0, "ppo").policy_sha256 == policy_sha256(kind.shipped)
    assert policy_sha256(kind.shipped) != policy_sha256(kind.shipped_own)
    assert not isinstance(tuning_agent("scripted"), CautiousAgent)
