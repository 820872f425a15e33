"""What every hand rule owes, and planted cases for those that decide something."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from llmo import catalog
from llmo.agent import Agent
from llmo.diagnostics.features import INDEX, NAMES
from llmo.errors import LlmoError
from llmo.evaluation.result import EpisodeRecord, Job, tuned_job
from llmo.evaluation.rollout import play
from llmo.mdp.spec import env_spec

ENV = "llmo/LanguageModel-v0"
SPACE = env_spec(ENV).space
RULES = (
    "keep", "random", "constant", "cosine", "linear", "step", "wsd", "plateau", "curriculum", "reflection",
    "explore_then_commit", "tracking", "bandit", "scripted", "update_ratio", "tutor",
)  # fmt: skip
SMALL = (0, 37)
"""Two train instances of the lowest budget, one from scratch, one pre-trained."""


def ready(name: str, seeds: Iterable[int], starts: Iterable[str], **parameters: Any) -> tuple[Agent, list[Any]]:
    agent: Agent = catalog.make_agent(name, **parameters)
    agent.bind(SPACE)
    agent.reset(list(seeds))
    return agent, agent.schedules(list(starts))


def seen(**values: float) -> np.ndarray:
    observation = np.zeros(len(NAMES), np.float32)
    for name, value in values.items():
        observation[INDEX[name]] = value
    return observation


class Player:
    """Plays one rule on one planted run."""

    def __init__(self, name: str, start: str = "scratch", seed: int = 0, **parameters: Any) -> None:
        self.agent, _ = ready(name, [seed], [start], **parameters)
        self.begun = False

    def act(self, *closed: str, **values: float) -> str:
        mask = np.array([[not action.startswith(closed or ("?",)) for action in SPACE.actions]])
        (index,) = self.agent.act(seen(**values)[None], mask, np.array([not self.begun]))
        self.begun = True
        self.why = self.agent.explain()[0]
        assert mask[0, index] and self.why
        return SPACE.actions[index]


@pytest.fixture(scope="module")
def together() -> dict[tuple[str, int], EpisodeRecord]:
    jobs = [Job(ENV, "train", index, name, budget=0.4) for index in SMALL for name in RULES]
    return {(record.result.job.agent, record.result.job.index): record for record in play(jobs)}


def numbers(record: EpisodeRecord) -> str:
    """All but how long it took; as text, so that NaN equals NaN."""
    return repr(EpisodeRecord(record.decisions, dataclasses.replace(record.result, wall_s=0.0)))


@pytest.mark.parametrize("name", RULES)
def test_a_run_comes_out_the_same_in_any_company(name: str, together: dict[tuple[str, int], EpisodeRecord]) -> None:
    """Alone in a population of one agent, the other instance first."""
    records = play([Job(ENV, "train", index, name, budget=0.4) for index in reversed(SMALL)])
    for record in records:
        assert numbers(record) == numbers(together[name, record.result.job.index])
        assert len(record.decisions) >= 3
        assert all(decision.why for decision in record.decisions)
        assert record.result.masked == 0


@pytest.mark.parametrize("name", RULES)
def test_what_is_done_to_a_run_does_not_depend_on_the_others(name: str) -> None:
    random = np.random.default_rng(3)
    observations = random.normal(0, 1, (14, 3, len(NAMES))).astype(np.float32).clip(-5, 5)
    observations[:, :, INDEX["spent"]] = np.linspace(-1, 0.9, 14)[:, None]
    masks = random.random((14, 3, len(SPACE.actions))) < 0.7
    masks[:, :, SPACE.action("keep")] = True
    seeds, starts = [5, 6, 7], ["scratch", "pretrained", "scratch"]

    def decide(runs: list[int]) -> list[list[Any]]:
        agent, schedules = ready(name, [seeds[run] for run in runs], [starts[run] for run in runs])
        told = []
        for step in range(14):
            actions = agent.act(observations[step, runs], masks[step, runs], np.full(len(runs), step == 0))
            rates = [schedule and schedule(step / 14) for schedule in schedules]
            told.append(list(zip(actions.tolist(), agent.explain(), rates)))
        return [list(column) for column in zip(*told)]

    batch = decide([0, 1, 2])
    assert [decide([run])[0] for run in (0, 1, 2)] == batch
    assert all(masks[step, run, batch[run][step][0]] for step in range(14) for run in range(3))


def test_random_actions_are_allowed_ones_all_alike() -> None:
    player = Player("random")
    drawn = [player.act("rate", "adapter", "distil", "augment", "source", "regularise") for _ in range(600)]
    counts = {name: drawn.count(name) for name in set(drawn)}
    assert counts.keys() == {"keep", "rollback", "load_averaged"}
    assert min(counts.values()) > 150


GAPS, SIZES = (0.9, -0.15, -0.6), (0.0, 0.0, -1.0)
"""Losses against validation (times 3) and sizes of three sources: noisy, clean, and small and learned by heart."""


@pytest.mark.parametrize(
    ("start", "prefer_large", "best"),
    [("scratch", 0.0, 3), ("scratch", 0.2, 2), ("pretrained", 0.0, 2), ("pretrained", 1.0, 2)],
)
def test_curriculum_stays_with_the_source_that_looks_best(start: str, prefer_large: float, best: int) -> None:
    player = Player("curriculum", start, probe=2, prefer_large=prefer_large)
    seen_all = {f"source_{slot}_age": 0.1 for slot in (1, 2, 3)} | {"pretrained": float(start == "pretrained")}
    sizes = {f"source_{slot}_size": size for slot, size in zip((1, 2, 3), SIZES)}
    assert player.act() == "source_1"
    for slot, gap in zip((1, 2, 3), GAPS):
        assert player.act(**{f"source_{slot}_gap": 9.0}) == "keep", "a trial is judged at its end"
        action = player.act(f"source_{slot}", **seen_all, **sizes, **{f"source_{slot}_gap": gap})
        assert action == (f"source_{slot + 1}" if slot < 3 else "keep" if best == 3 else f"source_{best}")
    assert "+30% at 10000 tokens, -5% at 10000 tokens, -20% at 1000 tokens" in player.why


def test_curriculum_averages_once_and_late() -> None:
    player = Player("curriculum", probe=1, average_from=0.9)
    for _ in range(4):
        player.act()
    assert [player.act(spent=spent) for spent in (0.0, 0.79, 0.81, 0.9)] == ["keep", "keep", "load_averaged", "keep"]


def test_curriculum_that_cannot_see_the_sources_uses_all() -> None:
    player = Player("curriculum", probe=1)
    assert [player.act() for _ in range(4)] == ["source_1", "source_2", "source_3", "source_uniform"]


@pytest.mark.parametrize("good", [1, 2, 3])
@pytest.mark.parametrize("rounds", [1, 2])
def test_explore_then_commit_finds_the_source_that_gains(good: int, rounds: int) -> None:
    player = Player("explore_then_commit", rounds=rounds)
    on, tried = "", []
    for _ in range(3 * rounds):
        action = player.act(on or "?", gain_1=2.0 if on == f"source_{good}" else 0.5)
        on = on if action == "keep" else action
        tried.append(on)
    assert sorted(tried) == sorted(["source_1", "source_2", "source_3"] * rounds)
    action = player.act(on, gain_1=2.0 if on == f"source_{good}" else 0.5)
    assert (on if action == "keep" else action) == f"source_{good}"
    assert [player.act(gain_1=0.0) for _ in range(3)] == ["keep"] * 3


TRACKING = [f"tracking_{name}" for name in ("constant", "cosine", "linear", "step", "wsd", "plateau")]


@pytest.mark.parametrize("name", ["tracking", *TRACKING])
def test_tracking_begins_at_once(name: str) -> None:
    player = Player(name)
    assert player.act(mixing_uniform=1.0) == "source_tracking"
    assert "the sources are mixed" in player.why
    assert player.act(mixing_tracking=1.0) == "keep"
    assert "rate" in player.why


@pytest.mark.parametrize("name", TRACKING)
def test_tracking_goes_under_every_tuned_schedule(name: str) -> None:
    plain = name.removeprefix("tracking_")
    job, other = (tuned_job(ENV, "train", 0, one) for one in (name, plain))
    assert job.parameters == other.parameters != ()
    (ours,), (theirs,) = (ready(one.agent, [0], ["scratch"], **dict(job.parameters))[1] for one in (job, other))
    assert [ours(spent) for spent in (0.0, 0.1, 0.5, 0.9)] == [theirs(spent) for spent in (0.0, 0.1, 0.5, 0.9)]


def test_an_open_loop_plays_its_sequence_whatever_it_sees() -> None:
    player = Player(
        "open_loop", first="rate_x2", second="keep", third="source_tracking", fourth="keep", at_40="keep",
        at_60="rollback", at_80="rate_decay", at_90="keep",
    )  # fmt: skip
    shares = (0.0, 0.05, 0.1, 0.15, 0.2, 0.45, 0.55, 0.6, 0.7, 0.85, 0.95)
    played = [player.act(spent=2 * share - 1, base_rate=-1.0) for share in shares]
    start, later = ["rate_x2", "keep", "source_tracking", "keep", "keep"], ["keep", "keep", "rollback", "keep"]
    assert played == [*start, *later, "rate_decay", "keep"]
    assert player.act(spent=1.0) == "keep"


def test_a_static_setting_holds_from_the_first_step() -> None:
    parameters = {
        "scratch": 2.0, "pretrained": 2.0, "mixing": "tracking", "regularisation": 3, "decay_from": 0.5,
        "distillation": "off", "augmentation": "off",
    }  # fmt: skip
    jobs = [Job(ENV, "train", index, "static", tuple(sorted(parameters.items())), budget=0.4) for index in SMALL]
    for record, other in zip(play(jobs), play([Job(ENV, "train", index, "keep", budget=0.4) for index in SMALL])):
        instance = env_spec(ENV).draw("train", record.result.job.index, 0.4)
        first, last = record.decisions[0], record.decisions[-1]
        assert first.learning_rate == pytest.approx(2 * other.decisions[0].learning_rate / instance.rate_factor)
        assert first.mixture != other.decisions[0].mixture
        assert last.learning_rate < 0.5 * first.learning_rate
        assert first.cost == other.decisions[0].cost, "nothing is paid for it"


def test_bandit_comes_to_use_the_action_that_pays() -> None:
    player = Player("bandit", exploration=0.3)
    closed = ("rate_x", "adapter", "distil", "augment", "source", "regularise")
    drawn = [""]
    for _ in range(60):
        drawn.append(player.act(*closed, gain_1=2.0 if drawn[-1] == "load_averaged" else 0.0))
    assert drawn[-30:].count("load_averaged") > 25


def test_reflection_repairs_the_rate_and_rolls_back_what_did_not_pay() -> None:
    player = Player("reflection", margin=0.02, patience=2, decay_from=0.5)
    data = {"source_1_gap": 0.9, "spent": -0.5}
    assert player.act(base_rate=1.3, rate=1.3) == "rate_default"
    assert player.act(**data) == "source_tracking"
    assert player.why.startswith("data quality: ")
    assert player.act(best_gap=1.0, **data) == "keep"
    assert player.act(best_gap=1.0, **data) == "rollback"
    assert "source_tracking did not pay: the loss is 5.0% above its best" in player.why
    assert player.act(**data) == "source_2", "what failed is not tried again"


def test_reflection_keeps_what_paid_and_decays_in_the_end() -> None:
    player = Player("reflection", margin=0.02, patience=1, decay_from=0.5)
    data = {"source_1_gap": 0.9, "spent": -0.5}
    player.act()
    assert [player.act(**data), player.act(**data)] == ["source_tracking", "source_tracking"]
    assert player.act(spent=0.1) == "rate_decay"
    assert player.act("rate_decay", spent=0.2, distillation_teacher=1.0, teacher_gap=-0.1) == "distil_off"


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"best_gap": 1.0}, "rate_x0.5"),
        ({"rate": -1.0}, "rate_default"),
        ({"train_gap": -0.6, "gain_2": -0.1}, "regularise_more"),
        ({"spent": -0.2, "gain_total": 1.0, "teacher_gap": 0.3}, "distil_teacher"),
        ({"spent": -0.2, "gain_total": 1.0, "teacher_gap": -0.3}, "adapter_full"),
        ({"spent": -0.2, "gain_total": 1.0, "norm_trend": -0.3}, "source_tracking"),
        ({"train_gap": -1.5, **{f"source_{slot}_size": -1.0 for slot in (1, 2, 3)}}, "augment_noise"),
        ({"gain_4": 1.0}, "keep"),
    ],
)
def test_reflection_has_a_remedy_for_each_cause(values: dict[str, float], remedy: str) -> None:
    player = Player("reflection")
    player.act()
    assert player.act(**{"spent": -0.5, **values}) == remedy


def test_what_is_shipped_fits_the_rules() -> None:
    """Every tuned value is one of its rule's grid, and the rules named are there."""
    from llmo.catalog.tuned import best_rule, reference_rule, shipped

    catalog.load("agents")
    names = catalog.KINDS["agents"].names()
    assert {best_rule(), reference_rule()} <= set(names)
    for name, rule in shipped()["rules"].items():
        grid = catalog.get("agents", name).grid
        assert rule["parameters"].keys() == grid.keys()
        assert all(value in grid[parameter] for parameter, value in rule["parameters"].items()), name


def test_grids_hold_the_defaults_in_order() -> None:
    catalog.load("agents")
    for name in RULES:
        agent = catalog.get("agents", name)
        for parameter, values in agent.grid.items():
            assert sorted(set(values)) == list(values)
            assert getattr(agent(), parameter) in values


@pytest.mark.parametrize(
    ("pretrained", "drawn", "moves"),
    [(1.0, 0.7, ["rate_default"]), (0.5, 0.7, ["rate_default", "rate_x0.5"]), (5.0, 0.0, ["rate_x5"]), (1.0, 0.0, [])],
)
def test_scripted_goes_to_its_rate_in_the_first_tenth(pretrained: float, drawn: float, moves: list[str]) -> None:
    """What it does while a rate is on that it does not want; then it tracks the sources."""
    player = Player("scripted", pretrained=pretrained, scratch=0.2)
    rate = 10**drawn
    factors = {"rate_x0.2": 0.2, "rate_x0.5": 0.5, "rate_x2": 2.0, "rate_x5": 5.0}
    for expected in [*moves, "source_tracking"]:
        found = player.act(spent=-1, pretrained=1, base_rate=np.log10(rate))
        assert found == expected
        rate = 1.0 if found == "rate_default" else rate * factors.get(found, 1.0)
    assert rate == pytest.approx(pretrained)
    assert player.act(spent=-0.7, pretrained=1, base_rate=drawn) == "source_tracking"


def test_scripted_refuses_a_rate_that_no_action_leads_to() -> None:
    with pytest.raises(LlmoError, match="scratch"):
        catalog.make_agent("scripted", scratch=0.3)


@pytest.mark.parametrize(
    ("change", "move"),
    [(0.0015, "rate_x5"), (0.007, "rate_x2"), (0.012, "source_tracking"), (0.03, "rate_x0.5"), (0.1, "rate_x0.2")],
)
def test_the_update_ratio_is_turned_to_what_is_wanted(change: float, move: str) -> None:
    """A rate in proportion to the change: the nearest turn that there is, none within a factor of 1.4."""
    seen = {"pretrained": 1, "base_rate": -2, "update_ratio": np.log10(change) + 2}
    player = Player("update_ratio", pretrained=0.01, turn_until=0.3)
    assert player.act(spent=-0.7, step_share=0.5, **seen) == move
    assert player.act(spent=-0.2, step_share=0.5, **seen) == "source_tracking"
    seen["update_ratio"] += np.log10(4)
    assert Player("update_ratio", pretrained=0.01, first=4.0).act(spent=-1, **seen) == move


def test_the_update_ratio_is_turned_by_way_of_the_default_where_that_is_nearer() -> None:
    """A drawn rate of 30 times the default, at which weights change 30 times as much as wanted."""
    player = Player("update_ratio", pretrained=0.01, first=1.0)
    assert player.act(spent=-1, pretrained=1, base_rate=np.log10(30), update_ratio=np.log10(0.3) + 2) == "rate_default"
    assert Player("update_ratio").act(spent=-1, pretrained=1, base_rate=-0.7) == "rate_default"


def test_the_null_rival_differs_from_the_cosine_by_luck_alone() -> None:
    """The same rates and budget and the same first measurement; other batches, so other losses after that."""
    jobs = [tuned_job(ENV, "train", 0, name, budget=0.4) for name in ("cosine", "cosine_again")]
    assert jobs[0].parameters == jobs[1].parameters
    one, other = play(jobs)
    assert one.result.initial_validation_loss == other.result.initial_validation_loss
    for ours, theirs in zip(one.decisions, other.decisions, strict=True):
        assert (ours.learning_rate, ours.spent) == (theirs.learning_rate, theirs.spent)
        assert 0 < abs(ours.validation_loss / theirs.validation_loss - 1) < 0.1


def test_self_training_writes_in_rounds_until_that_no_longer_gains() -> None:
    spec = env_spec("llmo/LanguageModel-Full-v0")
    agent = catalog.make_agent("self_training", first=0.25, patience=2, margin=0.01, decay_from=0.9)
    agent.bind(spec.space)
    agent.reset([0])
    agent.schedules(["scratch"])
    acted: list[str] = []

    def act(spent: float, gained: float, *closed: str) -> str:
        observation = np.zeros((1, len(spec.space.features)), np.float32)
        observation[0, INDEX["spent"]], observation[0, INDEX["gain_total"]] = 2 * spent - 1, 3 * gained
        mask = np.array([[not name.startswith(closed or ("?",)) for name in spec.menu]])
        (index,) = agent.act(observation, mask, np.array([not acted]))
        acted.append(spec.menu[index])
        return acted[-1]

    assert act(0.0, 0.0) == "rate_default"
    assert act(0.2, 0.1) == "keep"
    assert act(0.3, 0.1) == "write_top_p"
    assert act(0.4, 0.1) == "keep"
    assert act(0.5, 0.12) == "write_top_p", "it has gained, so another round follows"
    assert act(0.6, 0.12) == "keep"
    assert act(0.7, 0.125) == "written_less", "this round has not"
    assert "0.5% only" in agent.explain()[0]
    assert act(0.75, 0.125, "written_less") == "keep"
    assert act(0.95, 0.125, "written_less") == "rate_decay"
