"""The sections of the report: what is said, and how each picture is to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmo.evaluation import plots
from llmo.evaluation.html import Column, facts, heading, paragraph, picture, table
from llmo.evaluation.result import EpisodeRecord
from llmo.evaluation.timeline import plot_timeline

FEW_GROUPS = 10
"""Fewer text groups than this make a bootstrap interval too narrow."""
NONE = "–"


def head(scores: Mapping[str, Any], command: str) -> list[str]:
    """What was compared on what, who came out how, and where the numbers come from."""
    agents, reference = scores["agents"], scores["reference"]
    parts = [
        paragraph(
            f"{len(agents)} agents trained the same language models on {scores['instances']} {scores['split']} "
            f"instances from {scores['text_groups']} text groups, each with the same budget. A score is the test loss "
            f"saved against “{reference}” in percent (100 × log-ratio of losses); positive is better."
        )
    ]
    parts += [paragraph(_verdict(scores, name)) for name in plots.by_iqm(scores) if agents[name]["kind"] == "learned"]
    if scores["text_groups"] < FEW_GROUPS:
        parts.append(
            paragraph(
                f"Caution: instances of one text group are not independent, and there are only {scores['text_groups']} "
                f"groups here. With fewer than {FEW_GROUPS} the intervals are too narrow."
            )
        )
    versions = ", ".join(f"{name} {number}" for name, number in scores["versions"].items())
    origin = {"commit": scores["commit"], "versions": versions, "corpus sha256": scores["corpus_sha256"]}
    origin |= {name: str(scores[name]) for name in ("machine", "command") if name in scores}
    origin |= {
        "best tuned rule": f"{scores['best_rule']} (named on train instances)",
        "mean budget": f"{_flops(scores['budget_flops'])} an instance",
        "this page": command,
    }
    return [*parts, facts(origin)]


def _verdict(scores: Mapping[str, Any], name: str) -> str:
    """Whom a learned agent beats, whom it does not, in words."""
    found: dict[str, list[str]] = {"better than": [], "not told apart from": [], "worse than": []}
    for other in plots.by_iqm(scores):
        if other != name:
            pair = scores["pairs"][name][other]
            words = "better than" if pair["low"] > 0 else "worse than" if pair["high"] < 0 else "not told apart from"
            found[words].append(other)
    against = "; ".join(f"{words} {', '.join(others)}" for words, others in found.items() if others)
    score = _interval(scores["agents"][name])
    return f"“{name}” scores {score}. By the 95% intervals of paired differences it is {against or 'alone'}."


def results(scores: Mapping[str, Any]) -> list[str]:
    """The table of scores, and that of the speed-up where it was measured."""
    names, agents, speedup = plots.by_iqm(scores), scores["agents"], scores["speedup"]
    columns = [
        Column("agent"), Column("kind"), Column("IQM, % [95%]", True), Column("mean, %", True),
        Column("worst tenth, %", True), Column("beats reference", True), Column("scratch, %", True),
        Column("pre-trained, %", True), Column("FLOPs", True), Column("wall time, s", True), Column("seeds", True),
    ]  # fmt: skip
    rows = []
    for name in names:
        agent = agents[name]
        starts = [f"{agent[start]['iqm']:+.2f}" if start in agent else NONE for start in ("scratch", "pretrained")]
        is_reference = name == scores["reference"]
        flops = _flops(agent["flops"] + agent["search_flops"])
        chance = NONE if is_reference else f"{100 * agent['probability_of_improvement']:.0f}%"
        rows.append([
            name, "reference" if is_reference else agent["kind"], "0" if is_reference else _interval(agent),
            f"{agent['mean']:+.2f}", f"{agent['worst_decile']:+.2f}", chance, *starts, flops, f"{agent['wall_s']:.1f}",
            str(agent["seeds"]),
        ])  # fmt: skip
    strong = [place for place, name in enumerate(names) if agents[name]["kind"] == "learned"]
    parts = [
        heading("Scores"),
        paragraph(
            "IQM is the interquartile mean over instances; the interval is a bootstrap over text groups and whole "
            "seeds. FLOPs and time are means of one episode; those of search agents hold the search, which is outside "
            "the budget."
        ),
        table(columns, rows, strong),
    ]
    if speedup:
        order = sorted(speedup, key=lambda name: -speedup[name]["iqm"])
        cells = [
            [
                name,
                f"{speedup[name]['iqm']:.2f}×  [{speedup[name]['low']:.2f}, {speedup[name]['high']:.2f}]",
                f"{100 * speedup[name]['not_reached']:.0f}%",
            ]
            for name in order
        ]
        parts += [
            heading("Speed-up"),
            paragraph(
                f"How many times less budget an agent needs for the test loss that “{scores['reference']}” has with "
                "all of it. An instance on which it does not get there counts as zero; the last column says how many."
            ),
            table([Column("agent"), Column("speed-up [95%]", True), Column("not reached", True)], cells),
        ]
    return parts


def comparison(scores: Mapping[str, Any], folder: Path) -> list[str]:
    """The three pictures of a comparison."""
    plots.plot_iqm(scores, folder / "iqm.png")
    plots.plot_win_matrix(scores, folder / "win_matrix.png")
    plots.plot_profile(scores, folder / "profile.png")
    return [
        heading("Who is better, and how surely"),
        paragraph(
            "Right of the line is better than the reference. Where an agent's interval crosses the line, these "
            "instances do not tell the two apart."
        ),
        picture(folder / "iqm.png", "interquartile mean score of each agent with its interval"),
        heading("Each against each"),
        paragraph(
            "Read along a row: a dark orange cell says that this agent wins on most instances against the column's."
        ),
        picture(folder / "win_matrix.png", "probability that the row's agent beats the column's"),
        heading("How often by how much"),
        paragraph(
            "A curve that lies higher is better. Where it crosses the upright line it says on how many instances the "
            "agent is at least as good as the reference; its left end shows how badly it can go."
        ),
        picture(folder / "profile.png", "share of instances on which an agent scores at least so much"),
    ]


def learning(progress: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """The learning curve."""
    plots.plot_learning_curve(progress, folder / "learning_curve.png")
    return [
        heading("How the policy learned"),
        paragraph(
            "Each dot is the mean return of the training episodes that ended in one update. Every update plays other "
            "instances, so dots differ by luck; a line that rises over many says that the policy gets better."
        ),
        picture(folder / "learning_curve.png", "return of the policy's episodes against environment steps"),
    ]


def episode(record: EpisodeRecord, reference: EpisodeRecord, folder: Path) -> list[str]:
    """One episode against the reference's, as a picture and decision by decision."""
    plot_timeline(record, reference, folder / "timeline.png")
    rows = []
    best = record.result.initial_validation_loss
    for decision in record.decisions:
        gain = 100 * math.log(best / decision.best_validation_loss)
        best = decision.best_validation_loss
        masked = "" if decision.action == decision.chosen else f" (chose {decision.chosen}, which was masked)"
        rows.append([
            str(decision.step), f"{100 * decision.spent:.0f}%", decision.action + masked, decision.why or NONE,
            decision.cause, decision.evidence or NONE, f"{decision.learning_rate:.2g}", _loss(decision.train_loss),
            _loss(decision.validation_loss), f"{gain:.2f}" if gain else NONE,
            *([] if decision.epsilon is None else [f"{decision.epsilon:.2f}"]),
        ])  # fmt: skip
    columns = [
        Column("step", True), Column("budget spent", True), Column("action"), Column("why"), Column("diagnosed cause"),
        Column("evidence"), Column("rate", True), Column("training loss", True), Column("validation loss", True),
        Column("gain, %", True),
        *(Column(f"epsilon at delta {one.delta:g}", True) for one in record.decisions[:1] if one.delta is not None),
    ]  # fmt: skip
    job = record.result.job
    return [
        heading("One episode"),
        paragraph(
            f"The episode of “{job.agent}” whose score is nearest to its interquartile mean, on instance {job.index}: "
            "neither its best nor its worst. Read it from the bottom: what it did, which material and rate it used, "
            f"and whether its loss fell below that of “{reference.result.job.agent}”."
        ),
        picture(folder / "timeline.png", "losses, learning rate, source mixture and actions over one episode"),
        paragraph("Losses are in nats per token; a gain is the fall of the best validation loss in that step."),
        table(columns, rows),
    ]


def _interval(agent: Mapping[str, Any]) -> str:
    return f"{agent['iqm']:+.2f} [{agent['low']:+.2f}, {agent['high']:+.2f}]"


def _loss(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _flops(value: float) -> str:
    """FLOPs with a prefix, three digits."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"
