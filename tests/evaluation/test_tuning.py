"""The search finds planted optima."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from llmo.evaluation.result import Job
from llmo.evaluation.tuning import Climb, Instances, at_edge, search, search_all, search_jointly, summary

STARTS = {0: "scratch", 1: "pretrained", 2: "scratch", 3: "pretrained", 4: "scratch"}
INSTANCES = Instances("planted", STARTS, {index: f"group {index % 2}" for index in STARTS})
GRID = {
    "scratch": (0.5, 1.0, 2.0, 4.0, 8.0),
    "pretrained": (0.5, 1.0, 2.0, 4.0, 8.0),
    "shape": (0.0, 0.1, 0.2, 0.3, 0.4),
}


def planted(best: dict[str, Any], asked: list[Job]) -> Callable[[list[Job]], dict[Job, float]]:
    """Losses with one optimum, which the base does not reach."""

    def loss(job: Job) -> float:
        if job.agent == "constant":
            return 4.0
        own = dict(job.parameters)
        start = STARTS[job.index]
        other = "pretrained" if start == "scratch" else "scratch"
        assert own.get(other, own[start]) == own[start]
        distance = abs(math.log2(own[start] / best[start])) + 10 * abs(own.get("shape", 0) - best.get("shape", 0))
        return 3.0 + 0.1 * distance

    def play(jobs: list[Job]) -> dict[Job, float]:
        asked.extend(jobs)
        return {job: loss(job) for job in jobs}

    return play


@pytest.mark.parametrize(
    "best",
    [
        {"scratch": 8.0, "pretrained": 0.5, "shape": 0.3},
        {"scratch": 1.0, "pretrained": 2.0, "shape": 0.0},
        {"scratch": 0.5, "pretrained": 1.0, "shape": 0.4},
    ],
)
def test_the_planted_optimum_is_found_and_nothing_is_played_twice(best: dict[str, float]) -> None:
    asked: list[Job] = []
    start = {"scratch": 1.0, "pretrained": 1.0, "shape": 0.1}
    searches = {"rule": search("rule", GRID, start, INSTANCES)}
    found, losses = search_all(searches, planted(best, asked))
    assert found == {"rule": best}
    assert len(asked) == len(set(asked)) == len(losses)


def test_a_joint_search_finds_what_a_climb_cannot() -> None:
    """The better mixture pays at a high rate only, so that no single step from the start is better."""
    grid = {"rate": (1.0, 2.0, 4.0, 8.0, 16.0), "mixture": ("uniform", "tracking", "largest")}
    start, asked = {"rate": 1.0, "mixture": "uniform"}, []

    def play(jobs: list[Job]) -> dict[Job, float]:
        asked.extend(jobs)
        return {job: loss(**dict(job.parameters)) if job.agent == "rule" else 4.0 for job in jobs}

    def loss(rate: float, mixture: str) -> float:
        if mixture == "tracking":
            return 3.5 - 0.1 * rate
        return 3.0 + 0.01 * rate + 0.1 * (mixture == "largest")

    searches = {"rule": search_jointly("rule", grid, start, INSTANCES, 40)}
    found, losses = search_all(searches, play)
    assert found == {"rule": {"rate": 16.0, "mixture": "tracking"}}
    assert dict(asked[len(STARTS)].parameters) == start
    assert len(asked) == len(set(asked)) == len(losses)
    climbed, _ = search_all({"rule": search("rule", grid, start, INSTANCES)}, play)
    assert climbed["rule"] == start


def test_the_better_of_two_values_is_picked() -> None:
    grid = {"scratch": (1.0, 2.0)}
    for good in (1.0, 2.0):
        play = planted({"scratch": good, "pretrained": good}, [])
        instances = Instances("planted", {0: "scratch", 2: "scratch"}, {0: "a", 2: "b"})
        found, _ = search_all({"rule": search("rule", grid, {"scratch": 1.0}, instances)}, play)
        assert found == {"rule": {"scratch": good}}


def test_a_climb_asks_for_neighbours_only_and_stops_on_top() -> None:
    climb = Climb((1, 2, 4, 8, 16, 32), 1)
    trail = []
    while climb.wanted:
        trail.append(climb.wanted)
        climb.learn({place: -abs(place - 3) for place in climb.wanted})
    assert trail == [[0, 1, 2], [3], [4]]
    assert climb.best == 3


def test_summary_scores_against_the_base_and_names_edges() -> None:
    best = {"scratch": 8.0, "pretrained": 2.0, "shape": 0.0}
    jobs = [INSTANCES.job(agent, parameters, index) for index in STARTS for agent, parameters in _compared(best)]
    result = summary("rule", GRID, best, INSTANCES, planted(best, [])(jobs))
    percent = 100 * math.log(4 / 3)
    assert result["score"] == pytest.approx(dict.fromkeys(result["score"], percent))
    assert result["score"].keys() == {"iqm", "low", "high", "mean", "scratch", "pretrained"}
    assert result["at_edge"] == ["scratch"], "0 is where a grid has to end"


def _compared(best: dict[str, float]) -> list[tuple[str, dict[str, float]]]:
    return [("rule", best), ("constant", {"scratch": 1.0, "pretrained": 1.0})]


def test_edges() -> None:
    grid = {"a": (1, 2, 3), "b": (0.1, 0.5, 1.0), "c": (0.1, 0.5, 1.0)}
    assert at_edge(grid, {"a": 3, "b": 1.0, "c": 0.1}) == ["a", "c"]
