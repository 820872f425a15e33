"""Killed at random moments, `llmo improve` ends with the same bits."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

KILLS = 1
"""More of them: `python tests/evaluation/own/killed.py FOLDER 20 0`."""


def test_a_run_that_is_killed_at_random_moments_ends_in_the_same_bits(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ran = python(str(Path(__file__).with_name("killed.py")), str(tmp_path), str(KILLS), "0")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["kills"] == KILLS
    assert found["same"] == found["runs"] >= 1
