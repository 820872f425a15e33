"""Episodes are played once, kept, and come out the same however they are grouped."""

import dataclasses
from pathlib import Path

import pytest

from llmo.errors import LlmoError
from llmo.evaluation.archive import NAME, read_archive, write_archive
from llmo.evaluation.episodes import episode_file, play_all
from llmo.evaluation.result import EpisodeRecord, Job, load_records
from llmo.evaluation.rollout import chunks
from llmo.evaluation.workers import HERE, Workers

ENV = "llmo/LanguageModel-v0"
JOBS = [Job(ENV, "dev", index, agent) for agent in ("keep", "random") for index in (0, 1, 2)]


def numbers(record: EpisodeRecord) -> EpisodeRecord:
    """The record without how long it took."""
    return EpisodeRecord(record.decisions, dataclasses.replace(record.result, wall_s=0.0))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EpisodeRecord]]:
    folder = tmp_path_factory.mktemp("episodes")
    return folder, play_all(JOBS, folder, workers=HERE)


def test_one_by_one_in_processes_gives_the_same(played: tuple[Path, list[EpisodeRecord]], tmp_path: Path) -> None:
    again = play_all(JOBS[:4], tmp_path, workers=Workers("processes", 2), replicas=1)
    assert [numbers(record) for record in again] == [numbers(record) for record in played[1][:4]]


def test_what_is_there_is_not_played_again(played: tuple[Path, list[EpisodeRecord]]) -> None:
    folder, records = played
    victim = folder / episode_file(JOBS[2])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    victim.unlink()
    again = play_all(JOBS, folder, workers=HERE)
    assert [numbers(record) for record in again] == [numbers(record) for record in records]
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    assert {path for path in before if before[path] != after[path]} == {victim}
    assert [record.result.job.agent for record in load_records(folder)] == ["keep"] * 3 + ["random"] * 3


def test_what_is_in_an_archive_is_not_played_again(played: tuple[Path, list[EpisodeRecord]], tmp_path: Path) -> None:
    write_archive(tmp_path, played[1][:5])
    again = play_all(JOBS, tmp_path / "episodes", workers=HERE)
    assert [record.result for record in again[:5]] == [record.result for record in played[1][:5]]
    assert numbers(again[5]) == numbers(played[1][5])
    assert [path.name for path in (tmp_path / "episodes").rglob("*.jsonl")] == [episode_file(JOBS[5]).name]
    assert (tmp_path / NAME).stat().st_size < 2000

    write_archive(tmp_path, again[5:])
    assert read_archive(tmp_path).keys() == set(JOBS), "what is added takes nothing away"
    altered = dataclasses.replace(played[1][0].result, test_loss=9.0)
    EpisodeRecord(played[1][0].decisions, altered).save(tmp_path / "episodes" / episode_file(JOBS[0]))
    assert play_all(JOBS, tmp_path / "episodes", workers=HERE)[0].result.test_loss == 9.0, "a file counts more"

    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:-9])
    with pytest.raises(LlmoError, match=NAME):
        play_all(JOBS, tmp_path / "episodes", workers=HERE)


def test_the_files_of_another_benchmark_are_refused(played: tuple[Path, list[EpisodeRecord]]) -> None:
    other = [dataclasses.replace(job, split="train") for job in JOBS]
    with pytest.raises(LlmoError, match="episode file"):
        play_all(other, played[0], workers=HERE)


def test_an_altered_file_is_named(played: tuple[Path, list[EpisodeRecord]], tmp_path: Path) -> None:
    file = tmp_path / episode_file(JOBS[0])
    played[1][0].save(file)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(LlmoError, match=file.name):
        play_all(JOBS[:1], tmp_path, workers=HERE)


def test_groups_hold_every_job_once_and_one_shape_each() -> None:
    jobs = [Job(ENV, "test", index, "keep") for index in range(20)]
    groups = chunks(jobs, 4)
    assert sorted(job.index for group in groups for job in group) == list(range(20))
    assert max(map(len, groups)) == 4
    from llmo.mdp.instances import draw_instance

    for group in groups:
        assert len({draw_instance("test", job.index).shape for job in group}) == 1
