"""Results of many episodes in one small file, without their decisions: enough to score again what others have played.

A line of JSON for each result, compressed by xz.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path

from llmo.atomic import replacing, write_bytes_synced
from llmo.errors import LlmoError
from llmo.evaluation.result import EpisodeRecord, Job

NAME = "episodes.jsonl.xz"


def write_archive(folder: Path, records: Sequence[EpisodeRecord]) -> None:
    """Add the results of some episodes to a folder's archive, in the order of their jobs.

    Raises:
        LlmoError: There is a file of that name that is no archive.
    """
    all_records = read_archive(folder) | {record.result.job: record for record in records}
    ordered = sorted(all_records.values(), key=lambda record: repr(record.result.job))
    content = "".join(EpisodeRecord((), record.result).text() for record in ordered)
    with replacing(folder / NAME) as temporary:
        write_bytes_synced(temporary, lzma.compress(content.encode()))


def read_archive(folder: Path) -> dict[Job, EpisodeRecord]:
    """The results in a folder's archive, by job, each as an episode without decisions; nothing if there is no archive.

    Raises:
        LlmoError: It is no such file.
    """
    file = folder / NAME
    if not file.exists():
        return {}
    try:
        lines = lzma.decompress(file.read_bytes()).decode().splitlines()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise LlmoError("archive of episodes", str(file), f"one that `llmo benchmark` wrote ({error})") from error
    records = [EpisodeRecord.parse(line, str(file)) for line in lines]
    return {record.result.job: record for record in records}
