"""The report: one page that loads nothing, says what was compared, and shows the right numbers."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from llmo.errors import LlmoError
from llmo.evaluation import plots
from llmo.evaluation.report import read_progress, read_scores, typical_episode, write_report
from llmo.evaluation.result import Decision, EpisodeRecord, Job, Result, load_records
from llmo.evaluation.scores import score

EVIL = "<b>evil</b>&\"'"
GAINS = {"constant": 0.0, "curriculum": 0.01, EVIL: 0.03, "keep": -0.4, "end-search": 0.06}
"""How much better in log loss each planted agent is on every instance, give or take."""


def episode(agent: str, index: int, gain: float) -> EpisodeRecord:
    steps, rng = 16, np.random.default_rng([index, len(agent)])
    losses = 6.2 - (1 + gain) * (1 - np.exp(-np.arange(1, steps + 1) / 5)) + 0.05 * rng.standard_normal(steps)
    best = np.minimum.accumulate(losses)
    decisions = tuple(
        Decision(
            step=step,
            action="keep" if step % 3 else "source_tracking",
            chosen="distil_teacher" if step == 4 else "keep" if step % 3 else "source_tracking",
            why=f"because <{step}>",
            cause="data",
            evidence="source gaps 0.1",
            spent=(step + 1) / steps,
            cost=1e8,
            optimizer_steps=8,
            learning_rate=0.01 if step < 8 else 0.002,
            train_loss=math.nan if step == 0 else float(losses[step]) - 0.1,
            validation_loss=math.inf if step == steps - 1 else float(losses[step]),
            best_validation_loss=float(best[step]),
            mixture=(0.2, 0.3, 0.5),
            reward=0.1,
        )
        for step in range(steps)
    )
    result = Result(
        job=Job("llmo/LanguageModel-v0", "test", index, agent),
        start="scratch" if index % 2 else "pretrained",
        text_group=f"prose/{index % 8}",
        test_loss=5.0 * math.exp(-gain + (0 if agent == "constant" else 0.004 * rng.standard_normal())),
        validation_loss=float(best[-1]),
        initial_validation_loss=6.2,
        budget_flops=1.6e9,
        spent_flops=1.6e9,
        search_flops=4e10 if agent == "end-search" else 0.0,
        wall_s=1.5,
        diverged=False,
        masked=1,
        total_reward=1.6,
        corpus_sha256="0" * 64,
    )
    return EpisodeRecord(decisions, result)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `llmo demo` leaves it, with its report."""
    folder = tmp_path_factory.mktemp("demo")
    for place, (agent, gain) in enumerate(GAINS.items()):
        for index in range(12):
            episode(agent, index, gain).save(folder / "episodes" / str(place) / f"{index}.jsonl")
    scores = score(load_records(folder / "episodes"), "constant", "curriculum")
    scores["agents"][EVIL]["kind"] = "learned"
    (folder / "scores.json").write_text(json.dumps(scores))
    lines = [{"env_steps": 100 * i, "return": None if i == 0 else i / 10, "reference_return": 1.0} for i in range(20)]
    (folder / "train").mkdir()
    (folder / "train" / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"env_st')
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


class Page(HTMLParser):
    """Text and elements of a page; fails where an element is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def test_the_page_is_well_formed_and_loads_nothing(whole: Path) -> None:
    source = (whole / "report.html").read_text()
    page = Page(source)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "b"})
    assert "url(" not in source and "@import" not in source
    loads = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(loads) == 5 and all(value and value.startswith("data:image/png;base64,") for value in loads)
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?(https?:)?//""", source)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_the_page_says_what_was_compared(whole: Path) -> None:
    page = Page((whole / "report.html").read_text())
    scores = read_scores(whole / "scores.json")
    for name, agent in scores["agents"].items():
        assert name in page.cells
        if name != "constant":
            assert f"{agent['iqm']:+.2f} [{agent['low']:+.2f}, {agent['high']:+.2f}]" in page.cells
    for fact in (scores["commit"], scores["corpus_sha256"], "torch", f"llmo report {whole}", "12 test instances"):
        assert fact in page.text
    assert f"“{EVIL}” scores" in page.text
    assert "better than curriculum, constant, keep; worse than end-search" in page.text
    assert "Caution" in page.text and "8 groups" in page.text
    assert "because <15>" in page.cells and "not finite" in page.cells
    assert "keep (chose distil_teacher, which was masked)" in page.cells
    assert "41.6 GFLOP" in page.cells


def test_pictures_show_the_scores(whole: Path) -> None:
    """The learned agent's mark lies right of the zero line; `keep` is so bad that the axis is logarithmic."""
    image = (255 * matplotlib.image.imread(whole / "report" / "iqm.png")[..., :3]).round().astype(int)
    height, width, _ = image.shape
    assert width > 1000

    def columns(colour: str, least: int) -> np.ndarray:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        return np.flatnonzero((np.abs(image[: height - 60] - rgb).max(axis=2) < 40).sum(axis=0) >= least)

    zero = [x for x in columns(plots.BLACK, height // 2) if 0.3 * width < x < 0.85 * width]
    better, rules = columns(plots.VERMILLION, 2), columns(plots.BLUE, 2)
    assert zero and better.min() > max(zero)
    assert rules.min() < min(zero) - 0.2 * width
    for name in ("win_matrix", "profile", "learning_curve", "timeline"):
        assert matplotlib.image.imread(whole / "report" / f"{name}.png").std() > 0.05


def test_smoothing_keeps_a_line_and_invents_no_end() -> None:
    line = np.linspace(-3, 8, 57)
    np.testing.assert_allclose(plots.smoothed(line), line)
    values = np.random.default_rng(0).standard_normal(40)
    assert plots.smoothed(values)[0] == pytest.approx(values[0])
    assert plots.smoothed(values)[20] == pytest.approx(values[16:25].mean())


def test_the_typical_episode_is_the_learned_agents(whole: Path) -> None:
    scores, records = read_scores(whole / "scores.json"), load_records(whole / "episodes")
    found = typical_episode(scores, records)
    assert found is not None
    ours, theirs = (record.result for record in found)
    assert (ours.job.agent, theirs.job.agent, ours.job.index) == (EVIL, "constant", theirs.job.index)
    mean = scores["agents"][EVIL]["iqm"]
    distances = [abs(value - mean) for value in scores["agents"][EVIL]["scores"]]
    assert ours.job.index == int(np.argmin(distances))
    alone = {**scores, "agents": {name: scores["agents"][name] for name in ("constant", "end-search")}}
    assert typical_episode(alone, records) is None


def test_of_archived_episodes_none_is_shown(whole: Path) -> None:
    """Where the learned agent's were read from an archive, without decisions, and others were played beside them."""
    scores, records = read_scores(whole / "scores.json"), load_records(whole / "episodes")
    archived = [
        dataclasses.replace(record, decisions=()) if record.result.job.agent == EVIL else record for record in records
    ]
    assert typical_episode(scores, archived) is None
    with pytest.raises(LlmoError, match="none"):
        typical_episode(scores, [record for record in records if record.result.job.agent != EVIL])


def test_training_is_optional(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    (folder / "report" / "learning_curve.png").unlink()
    write_report(folder)
    assert not (folder / "report" / "learning_curve.png").exists()
    with pytest.raises(LlmoError, match="record of training .*nowhere"):
        write_report(folder, train=folder / "nowhere")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda s: s.pop("pairs"), "KeyError: 'pairs'"),
        (lambda s: s.pop("commit"), "lacks commit"),
        (lambda s: s["agents"]["keep"].pop("low"), "lacks low of keep"),
        (lambda s: s["agents"]["keep"].update(kind="magic"), "lacks kind of keep"),
        (lambda s: s["agents"]["keep"]["scores"].pop(), "lacks scores of keep"),
        (lambda s: s["pairs"]["keep"].pop("constant"), "lacks keep against constant"),
        (lambda s: s.update(reference="cosine"), "lacks the reference cosine"),
        (lambda s: s.update(agents=[]), "AttributeError"),
    ],
)
def test_broken_scores_are_refused(folder: Path, broken, message: str) -> None:  # type: ignore[no-untyped-def]
    scores = json.loads((folder / "scores.json").read_text())
    broken(scores)
    (folder / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(LlmoError, match=message):
        write_report(folder)


def test_missing_and_malformed_files_are_refused(folder: Path) -> None:
    with pytest.raises(LlmoError, match=r"progress\.jsonl"):
        (folder / "train" / "progress.jsonl").write_text('{"env_steps": 5}\n')
        write_report(folder)
    assert read_progress(folder / "other" / "progress.jsonl", needed=False) == []
    shutil.rmtree(folder / "train")
    timeline = folder / "report" / "timeline.png"
    timeline.unlink(missing_ok=True)
    assert "One episode" in write_report(folder).read_text() and timeline.exists()
    timeline.unlink()
    shutil.rmtree(folder / "episodes")
    assert "One episode" not in write_report(folder).read_text() and not timeline.exists(), "results alone do as well"
    for text in ("", "[1]", '{"agents": 3}', "{"):
        (folder / "scores.json").write_text(text)
        with pytest.raises(LlmoError, match=r"scores\.json"):
            write_report(folder)
    (folder / "scores.json").unlink()
    with pytest.raises(LlmoError, match=r"scores\.json"):
        write_report(folder)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no `chromium` on PATH to show the page in")
@pytest.mark.parametrize("width", [420, 1300])
def test_a_browser_shows_it_without_overflow(whole: Path, tmp_path: Path, width: int) -> None:
    """In a copy that may run a script: every picture is decoded, and the page is no wider than the window."""
    probe = """<script>addEventListener("load", () => {
        const images = [...document.images], page = document.documentElement;
        const decoded = images.filter(image => image.naturalWidth > 500).length;
        document.title = `${decoded} of ${images.length}, overflow ${page.scrollWidth - page.clientWidth}`;
    });</script></body>"""
    source = re.sub(r"<meta http-equiv[^>]*>", "", (whole / "report.html").read_text()).replace("</body>", probe)
    (tmp_path / "page.html").write_text(source)
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
        f"--window-size={width},2000", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<title>5 of 5, overflow 0</title>" in result.stdout, result.stderr[-2000:]
