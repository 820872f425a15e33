"""Notes down every scoring on test instances, in the cache folder: each one costs some of their worth."""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Mapping

from llmo.evaluation.provenance import commit
from llmo.tasks.text import cache_folder


def log_scoring(split: str, command: str, scores: Mapping[str, float]) -> None:
    """Append one line to ``test_scorings.jsonl``, if test instances were scored; a warning where that is impossible.

    Args:
        split: The instances' part.
        command: What was run.
        scores: A number for each agent.
    """
    if split != "test":
        return
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": time, "command": command, "commit": commit(), "scores": dict(scores)}
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with (cache_folder() / "test_scorings.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        warnings.warn(f"this scoring on test instances was not noted down: {error}", stacklevel=2)
