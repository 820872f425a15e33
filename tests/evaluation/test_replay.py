import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmo.agent import Agent
from llmo.cli import main
from llmo.errors import LlmoError
from llmo.evaluation.episodes import episode_file
from llmo.evaluation.members import member_jobs
from llmo.evaluation.replay import replay
from llmo.evaluation.result import EpisodeRecord, Job
from llmo.evaluation.rollout import play

ENV = "llmo/LanguageModel-v0"
JOBS = [
    Job(ENV, "dev", 0, "random", seed=1, budget=0.3),
    Job(ENV, "dev", 1, "random", seed=1, budget=0.3),
    Job(ENV, "dev", 2, "random", seed=2, budget=0.3, executor="single"),
    Job(ENV, "train", 3, "plateau", (("patience", 0),), budget=0.5),
    Job(ENV, "train", 4, "cosine", budget=0.3),
    Job(ENV, "dev", 5, "search_1", budget=0.12),
    Job(ENV, "train", 6, "static", (("mixing", "tracking"), ("scratch", 2.0)), budget=0.3),
]


@pytest.fixture(scope="module")
def records() -> dict[Job, EpisodeRecord]:
    """Random actions in populations of two and one; schedules, one of which changes as it goes; a search."""
    groups = [JOBS[:2], *([job] for job in JOBS[2:])]
    return {job: record for jobs in groups for job, record in zip(jobs, play(jobs), strict=True)}


@pytest.fixture
def write(tmp_path: Path, records: dict[Job, EpisodeRecord]) -> Callable[..., Path]:
    """Writes the episodes of some jobs; the folder."""

    def save(*jobs: Job) -> Path:
        for job in jobs:
            records[job].save(tmp_path / episode_file(job))
        return tmp_path

    return save


def alter(path: Path, line: int, **changes: object) -> None:
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[line] |= changes
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))


def test_every_number_comes_out_the_same(write: Callable[..., Path]) -> None:
    assert sorted(replay(str(write(*JOBS)))) == sorted(f"ok   {job.agent} {job.index}" for job in JOBS)


def test_masked_choices_are_taken_again(tmp_path: Path) -> None:
    class Reckless(Agent):
        """Chooses what is masked on a fresh run."""

        def act(self, observation, mask, episode_start):
            return np.full(len(observation), self.space.action("augment_off"))

    (record,) = play(JOBS[:1], player=Reckless())
    assert record.result.masked == len(record.decisions) > 1
    record.save(tmp_path / "episode.jsonl")
    assert replay(str(tmp_path)) == ["ok   random 0"]


@pytest.mark.parametrize(
    ("line", "field", "value", "words"),
    [
        (1, "validation_loss", 1.0, "step 1, validation_loss: recorded 1.0, now "),
        (0, "cause", "bad luck", "step 0, cause: recorded 'bad luck', now "),
        (-1, "test_loss", 2.5, "test_loss: recorded 2.5, now "),
        (-1, "masked", 99, "masked: recorded 99, now "),
    ],
)
def test_an_altered_number_is_found(
    write: Callable[..., Path], line: int, field: str, value: object, words: str
) -> None:
    folder = write(*JOBS[:2])
    alter(folder / episode_file(JOBS[0]), line, **{field: value})
    altered, sound = replay(str(folder))
    assert altered.startswith("FAIL random 0 ") and words in altered
    assert sound == "ok   random 1"


def test_the_last_bit_counts(write: Callable[..., Path], records: dict[Job, EpisodeRecord]) -> None:
    folder, job = write(JOBS[4]), JOBS[4]
    alter(folder / episode_file(job), 0, train_loss=records[job].decisions[0].train_loss * (1 + 2**-52))
    (line,) = replay(str(folder))
    assert line.startswith("FAIL cosine 4 step 0, train_loss: ")


def test_another_action_is_another_episode(write: Callable[..., Path]) -> None:
    folder = write(JOBS[0])
    alter(folder / episode_file(JOBS[0]), 0, chosen="adapter_lora", action="adapter_lora")
    assert replay(str(folder))[0].startswith("FAIL random 0 step 0")


def test_wall_time_and_a_searchs_looks_are_not_compared(write: Callable[..., Path]) -> None:
    folder = write(JOBS[5])
    alter(folder / episode_file(JOBS[5]), -1, wall_s=1e9, search_flops=1.0)
    assert replay(str(folder)) == ["ok   search_1 5"]


def test_files_that_cannot_be_re_executed_fail_by_name(write: Callable[..., Path]) -> None:
    folder = write(*JOBS[:4])
    cut, unknown, renamed = (folder / episode_file(job) for job in JOBS[:3])
    cut.write_text(cut.read_text()[:-40])
    alter(unknown, 0, chosen="no_such_action")
    renamed.write_text(renamed.read_text().replace('"agent": "random"', '"agent": "randon"'))
    lines = replay(str(folder))
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        ["ok   plateau 3", *(f"FAIL {path.relative_to(folder)}" for path in (cut, unknown, renamed))]
    )
    assert (
        sum("no_such_action" in line for line in lines) == sum("did you mean 'random'" in line for line in lines) == 1
    )


def test_a_folder_without_episodes_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(LlmoError, match="folder"):
            replay(str(folder))


def test_the_play_command_writes_what_replay_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["play", ENV, "--agent", "scripted", "--instance", "2", "--budget", "0.3", "--out", str(tmp_path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "step  1 | budget" in out and "test loss" in out
    assert main(["replay", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "ok   scripted 2\n"
    (path,) = tmp_path.rglob("*.jsonl")
    alter(path, -1, spent_flops=1.0)
    assert main(["replay", str(tmp_path)]) == 1


def test_a_population_that_lies_in_two_folders_is_replayed_twice(tmp_path: Path) -> None:
    """Each with its own members; a schedule beside them, in both folders too."""
    jobs = [*member_jobs("llmo/LanguageModel-v1", "train", 3, "pbt", budget=1.0), JOBS[4]]
    for folder in ("one", "other"):
        for record in [*play(jobs[:-1]), *play(jobs[-1:])]:
            record.save(tmp_path / folder / episode_file(record.result.job))
    assert [line.split()[:2] for line in replay(str(tmp_path))] == 2 * [["ok", "cosine"], *(4 * [["ok", "pbt"]])]
