"""Scores against scipy, closed forms and planted cases."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from llmo.errors import LlmoError
from llmo.evaluation.result import Decision, EpisodeRecord, Job, Result, load_records
from llmo.evaluation.scores import score
from llmo.evaluation.statistics import (
    Bootstrap,
    Statistic,
    iqm,
    performance_profile,
    resampled_iqm,
    resampled_mean,
    resampled_worst_decile,
    worst_decile,
)
from llmo.evaluation.table import rule_table


def record(agent: str, index: int, loss: float, seed: int = 0, budget: float = 1.0, group: str = "") -> EpisodeRecord:
    decision = Decision(0, "keep", "keep", "why", "none", "", 1.0, 9.0, 8, 0.01, 5.0, 5.0, 5.0, (0.2, 0.3, 0.5), 0.1)
    result = Result(
        job=Job("llmo/LanguageModel-v0", "test", index, agent, (("peak", 2.0),), seed, budget),
        start="scratch" if index % 2 else "pretrained",
        text_group=group or f"prose/{index % 8}",
        test_loss=loss,
        validation_loss=loss,
        initial_validation_loss=6.0,
        budget_flops=100.0 * budget,
        spent_flops=90.0 * budget,
        search_flops=0.0,
        wall_s=2.0,
        diverged=False,
        masked=1,
        total_reward=0.1,
        corpus_sha256="0" * 64,
    )
    return EpisodeRecord((decision,), result)


def records(agent: str, losses: Sequence[float], **settings: object) -> list[EpisodeRecord]:
    return [record(agent, index, float(loss), **settings) for index, loss in enumerate(losses)]  # type: ignore[arg-type]


@pytest.fixture
def losses() -> np.ndarray:
    return 4 + np.random.default_rng(0).gamma(2.0, 0.5, 33)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 64, 101])
def test_iqm_is_the_trimmed_mean(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    assert iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-12)


def test_a_resample_counts_as_its_values_repeated() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.standard_normal((50, 13)), rng.integers(0, 4, (50, 13))
    expected = [scipy.stats.trim_mean(np.repeat(row, times), 0.25) for row, times in zip(values, counts)]
    np.testing.assert_allclose(resampled_iqm(values, counts), expected, atol=1e-12)
    shared = [scipy.stats.trim_mean(np.repeat(values[0], times), 0.25) for times in counts]
    np.testing.assert_allclose(resampled_iqm(values[:1], counts), shared, atol=1e-12)


@pytest.mark.parametrize(
    ("statistic", "plain"),
    [
        (resampled_mean, np.mean),
        (resampled_worst_decile, lambda values: np.sort(values)[: math.ceil(len(values) / 10)].mean()),
    ],
)
def test_other_statistics_of_a_resample(statistic: Statistic, plain: Callable[[np.ndarray], float]) -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.standard_normal((50, 33)), rng.integers(0, 4, (50, 33))
    expected = [plain(np.repeat(row, times)) for row, times in zip(values, counts)]
    np.testing.assert_allclose(statistic(values, counts), expected, atol=1e-12)
    shared = [plain(np.repeat(values[0], times)) for times in counts]
    np.testing.assert_allclose(statistic(values[:1], counts), shared, atol=1e-12)


def test_the_interval_without_clusters_is_scipys() -> None:
    values = np.random.default_rng(1).standard_normal(80)
    low, high = Bootstrap([str(i) for i in range(80)]).interval(values[None])
    theirs = scipy.stats.bootstrap(
        (values,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.15 * (theirs.high - theirs.low))


def test_clusters_widen_the_interval() -> None:
    """Eight instances of a group agree, so there are 8 independent values, not 64: about sqrt(8) times the width."""
    values = np.repeat(np.random.default_rng(2).standard_normal(8), 8)[None]
    low, high = Bootstrap([str(i // 8) for i in range(64)]).interval(values)
    narrow, wide = Bootstrap([str(i) for i in range(64)]).interval(values)
    assert 1.8 < (high - low) / (wide - narrow) < 4


def test_seeds_widen_the_interval(losses: np.ndarray) -> None:
    """One seed is 4% better and one 4% worse on every instance: with two seeds the interval must hold both."""
    seeds = [*records("ppo", losses * math.exp(-0.04), seed=0), *records("ppo", losses * math.exp(0.04), seed=1)]
    row = score([*records("constant", losses), *seeds], "constant", "constant")["agents"]["ppo"]
    assert row["iqm"] == pytest.approx(0, abs=1e-9)
    assert (row["low"], row["high"]) == pytest.approx((-4, 4))
    assert row["seeds"] == 2 and row["probability_of_improvement"] == 0.5


def test_identical_agents_tie(losses: np.ndarray) -> None:
    scores = score([*records("constant", losses), *records("twin", losses)], "constant", "constant")
    for row in (scores["agents"]["twin"], scores["agents"]["constant"], scores["pairs"]["twin"]["constant"]):
        assert (row["iqm"], row["low"], row["high"], row["probability_of_improvement"]) == (0, 0, 0, 0.5)


def test_a_constant_shift_of_log_loss_is_the_score(losses: np.ndarray) -> None:
    better = records("ppo", losses * math.exp(-0.02))
    scores = score([*records("constant", losses), *better], "constant", "constant")
    row = scores["agents"]["ppo"]
    for name in ("iqm", "low", "high", "mean", "worst_decile"):
        assert row[name] == pytest.approx(2)
    assert row["scratch"]["iqm"] == pytest.approx(2) and row["scratch"]["instances"] == 16
    assert row["probability_of_improvement"] == 1
    assert scores["pairs"]["constant"]["ppo"]["iqm"] == pytest.approx(-2)
    assert (row["flops"], row["wall_s"], row["masked"], row["tuned"]["peak"]) == (90, 2, 1, 2.0)
    assert (scores["instances"], scores["text_groups"], scores["budget_flops"]) == (33, 8, 100)
    assert scores["corpus_sha256"] == "0" * 64
    assert scores["speedup"] == {}


def test_pairs_are_paired(losses: np.ndarray) -> None:
    """Both agents vary wildly with the instance, and still always differ by the same 1%."""
    noise = np.exp(np.random.default_rng(3).normal(0, 0.3, len(losses)))
    played = [*records("a", losses * noise), *records("b", losses * noise * 1.01), *records("constant", losses)]
    pair = score(played, "constant", "constant")["pairs"]["a"]["b"]
    assert (pair["low"], pair["high"]) == pytest.approx((100 * math.log(1.01),) * 2)


def test_an_agents_row_does_not_depend_on_who_else_is_there(losses: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    two = [r for seed in (0, 1) for r in records("ppo", losses * rng.uniform(0.9, 1, len(losses)), seed=seed)]
    few = [*records("constant", losses), *two]
    many = [*records("another", losses[::-1]), *few]
    assert score(few, "constant", "constant")["agents"]["ppo"] == score(many, "constant", "constant")["agents"]["ppo"]


def test_mean_tail_and_worst_seed_of_a_pair() -> None:
    """Of 20 instances two are 30% worse, the others 2% better; the second seed is 1% worse than the first."""
    gains = np.array([-0.3, -0.3] + [0.02] * 18)
    rule = np.full(20, 5.0)
    seeds = [r for seed in (0, 1) for r in records("ppo", rule * np.exp(0.01 * seed - gains), seed=seed)]
    pair = score([*records("constant", rule), *seeds], "constant", "constant")["pairs"]["ppo"]["constant"]
    assert pair["iqm"] == pytest.approx(1.5) and pair["worst_seed"] == pytest.approx(1)
    assert pair["mean"] == pytest.approx(100 * gains.mean() - 0.5)
    assert pair["mean_low"] < pair["mean"] < pair["mean_high"] < 2.01
    assert pair["worst_decile"] == pytest.approx(-30.5)
    assert pair["worst_decile_low"] <= -30.5 < pair["worst_decile_high"]


def test_the_share_of_the_headroom_is_what_was_planted() -> None:
    """The search gains 2% everywhere, the agent half of that; with no gain by the search there is no share."""
    rule = [3.0 + 0.01 * index for index in range(40)]
    groups = [f"group {index % 8}" for index in range(40)]

    def scored(gain: float) -> dict[str, Any]:
        by = {"constant": 0.0, "rule": 0.0, "search_full": gain, "agent": 0.01}
        played = [
            record(name, index, loss * math.exp(-share), group=groups[index])
            for name, share in by.items()
            for index, loss in enumerate(rule)
        ]
        return score(played, "constant", "rule")

    def shares(gain: float) -> dict[str, Any]:
        found: dict[str, Any] = scored(gain)["headroom"]
        return found

    assert shares(0.02)["agent"] == pytest.approx({"share": 0.5, "low": 0.5, "high": 0.5})
    assert shares(0.02)["constant"] == pytest.approx({"share": 0.0, "low": 0.0, "high": 0.0}, abs=1e-9)
    assert shares(0.0)["agent"] is None

    tails = scored(0.02)["tails"]
    assert tails["agent"] == pytest.approx({"gain": 1.0, "low": 1.0, "high": 1.0})
    scores = {"best_rule": "rule", "instances": 1, "horizons": [], "headroom": shares(0.02), "tails": tails}
    pair = dict.fromkeys(("probability_of_improvement", "worst_seed"), 0.5)
    pair |= {f"{name}{end}": 1.0 for name in ("", "mean_", "worst_decile_") for end in ("low", "high")}
    pair |= dict.fromkeys(("iqm", "mean", "worst_decile"), 1.0)
    agents = {"agent": {"kind": "learned"}, "rule": {"kind": "rule"}}
    text = rule_table({**scores, "agents": agents, "pairs": {"agent": {"rule": pair}}})
    assert "|\n\nagent's worst tenth is +1.00% [+1.00, +1.00] better than the rule's.\n" in text
    assert text.endswith("\nagent gains 0.50 [0.50, 0.50] of what search to the end gains over it.")


def test_a_tail_that_is_cut_off_is_gained() -> None:
    """The rule fails by 20% on a tenth of the instances, the agent on others by 5%; else both are the reference."""
    groups = [f"group {index}" for index in range(40)]
    fails = {"constant": (), "rule": range(4), "agent": range(30, 34)}
    by = {"constant": 0.0, "rule": 0.2, "agent": 0.05}
    played = [
        record(name, index, 3.0 * math.exp(by[name] if index in bad else 0.0), group=groups[index])
        for name, bad in fails.items()
        for index in range(40)
    ]
    scores = score(played, "constant", "rule")
    assert scores["tails"]["agent"]["gain"] == pytest.approx(15)
    assert 0 < scores["tails"]["agent"]["low"] < 15 < scores["tails"]["agent"]["high"]
    assert scores["pairs"]["agent"]["rule"]["worst_decile"] == pytest.approx(-5)


def test_small_and_large_budgets_are_told_apart() -> None:
    """Budgets of 1, 2, 4, 8 and 16: those of the middle one, 4, gain 3%, all others 1%."""
    budgets = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0], 6)
    gain = np.where(budgets == 4, 0.03, 0.01)
    played = [*records("constant", np.full(30, 5.0)), *records("ppo", 5 * np.exp(-gain))]
    budgeted = [
        replace(episode, result=replace(episode.result, budget_flops=budget))
        for episode, budget in zip(played, [*budgets, *budgets], strict=True)
    ]
    scores = score(budgeted, "constant", "constant")
    horizons = scores["horizons"]
    assert [(row["budget"], row["instances"]) for row in horizons] == [(b, 6) for b in (0.25, 0.5, 1, 2, 4)]
    assert [row["agents"]["ppo"]["iqm"] for row in horizons] == pytest.approx([1, 1, 3, 1, 1])
    table = rule_table(scores).splitlines()
    assert [line.split("|")[2].strip() for line in table[4:10]] == ["all", "0.25x", "0.5x", "1x", "2x", "4x"]
    assert [line.split("|")[4].strip() for line in table[6:8]] == ["+1.00 [+1.00, +1.00]", "+3.00 [+3.00, +3.00]"]
    assert rule_table(score(budgeted, "constant", "scripted")) == ""


def test_speedup_of_a_planted_case() -> None:
    """`ppo` matches with half the budget on 8 of 10 instances, never on the others; the reference matches itself."""
    bar = np.full(10, 5.0)
    never = np.array([5.0] * 8 + [5.1] * 2)
    played = [*records("constant", bar), *records("constant", bar + 0.1, budget=1 / 1.5)]
    played += [*records("constant", bar + 0.1, budget=0.5), *records("ppo", never)]
    played += [*records("ppo", never, budget=1 / 1.5), *records("ppo", never, budget=0.5), *records("keep", bar)]
    scores = score(played, "constant", "constant")
    speedup = scores["speedup"]
    assert scores["speedup_over_constant"] == speedup
    assert speedup.keys() == {"constant", "ppo"}
    assert speedup["ppo"]["iqm"] == 2 and speedup["ppo"]["not_reached"] == pytest.approx(0.2)
    assert speedup["constant"] == {"iqm": 1, "low": 1, "high": 1, "not_reached": 0}


def test_profile_and_worst_decile() -> None:
    scores = np.arange(-5.0, 15.0)
    profile = performance_profile(scores, np.array([-6, -5, 0, 14, 15]))
    np.testing.assert_allclose(profile, scipy.stats.ecdf(scores).sf.evaluate([-7, -6, -1, 13, 14]))
    assert worst_decile(scores) == -4.5


def test_incomplete_and_broken_data_is_named(losses: np.ndarray) -> None:
    whole = records("constant", losses)
    with pytest.raises(LlmoError, match=r"record of ppo, seed 0, budget 1 .*no instance 5"):
        score([*whole, *(r for r in records("ppo", losses) if r.result.job.index != 5)], "constant", "constant")
    with pytest.raises(LlmoError, match="record of ppo, seed 0, budget 0.5"):
        half = records("ppo", losses, budget=0.5)[1:] + records("constant", losses, budget=0.5)
        score([*whole, *records("ppo", losses), *half], "constant", "constant")
    with pytest.raises(LlmoError, match="reference 'cosin'.*constant"):
        score(whole, "cosin", "constant")
    with pytest.raises(LlmoError, match="episode of constant, seed 0, instance 3, budget 1 'given twice'"):
        score([*whole, whole[3]], "constant", "constant")
    with pytest.raises(LlmoError, match="test loss of the episode of ppo, seed 0, instance 40"):
        score([*whole, record("ppo", 40, math.nan)], "constant", "constant")
    with pytest.raises(LlmoError, match="instance 0 of ppo"):
        score([*whole, *records("ppo", losses, group="code/1")], "constant", "constant")
    with pytest.raises(LlmoError, match="at least one episode"):
        score([], "constant", "constant")
    with pytest.raises(LlmoError, match="at budget 1"):
        score(records("constant", losses, budget=0.5), "constant", "constant")


def test_records_and_scores_survive_json(tmp_path: Path, losses: np.ndarray) -> None:
    played = [*records("constant", losses), *records("ppo", losses[::-1])]
    for item in played:
        item.save(tmp_path / item.result.job.agent / f"{item.result.job.index}.jsonl")
    scores = score(load_records(tmp_path), "constant", "cosine")
    assert scores == score(played, "constant", "cosine")
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert {"env", "split", "reference", "best_rule", "commit", "versions", "corpus_sha256"} <= scores.keys()
