"""Plays many episodes over workers, one file each, and continues where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmo.errors import LlmoError
from llmo.evaluation.archive import read_archive
from llmo.evaluation.members import together
from llmo.evaluation.progress import Progress
from llmo.evaluation.result import EpisodeRecord, Job
from llmo.evaluation.rollout import chunks, play
from llmo.evaluation.spread import spread
from llmo.evaluation.workers import Workers
from llmo.mdp.spec import env_spec
from llmo.registry import valid_name
from llmo.tasks.own_text import text_sha256

Place = Callable[[Job], Path]
"""Where a job's file lies, below the folder of the episodes."""


def episode_file(job: Job) -> Path:
    """``AGENT/SEED/INDEX.jsonl``, with the budget in the name where it is not the instance's own."""
    budget = "" if job.budget == 1 else f"-budget{job.budget:.3f}"
    return Path(valid_name("agent", job.agent), str(job.seed), f"{job.index:05d}{budget}.jsonl")


def play_all(
    jobs: Sequence[Job],
    folder: Path,
    workers: Workers,
    replicas: int = 64,
    what: str = "episodes",
    place: Place = episode_file,
) -> list[EpisodeRecord]:
    """Play every job that has no result yet, and give the records of all.

    A result is a file of its own, or stands in the archive beside the folder.

    Args:
        jobs: What to play.
        folder: Where the files lie.
        workers: Who plays.
        replicas: Episodes that one worker plays together.
        what: For the progress line.
        place: Where a job's file lies.

    Returns:
        Records in the order of the jobs.

    Raises:
        LlmoError: A file belongs to another job or another corpus, or cannot be read.
    """
    archived = read_archive(folder.parent)

    def known(job: Job) -> bool:
        return (folder / place(job)).exists() or job in archived

    waiting = [job for unit in together(jobs) if not all(map(known, unit)) for job in unit]
    share = max(1, -(-len(waiting) // max(1, 2 * workers.count)))
    groups = chunks(waiting, min(replicas, share))
    with Progress(what, len(jobs), len(jobs) - len(waiting)) as progress:
        for number, records in spread(play, [(group,) for group in groups], workers):
            for job, record in zip(groups[number], records, strict=True):
                record.save(folder / place(job))
            progress.advance(len(records))
    files = {job: folder / place(job) for job in jobs}
    found = [EpisodeRecord.load(file) if file.exists() else archived[job] for job, file in files.items()]
    texts = {env: text_sha256(env_spec(env).data) for env in {job.env for job in jobs}}
    for job, record in zip(jobs, found, strict=True):
        if record.result.job != job:
            raise LlmoError("episode file", str(folder / place(job)), f"that of {job}; choose another folder")
        if record.result.corpus_sha256 != texts[job.env]:
            raise LlmoError("episode file", str(folder / place(job)), "one made with the text that is there now")
    return found
