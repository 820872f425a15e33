"""The tuned values of the rules, found by `llmo tune` on train instances and shipped as `agents/tuned.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from llmo.errors import LlmoError

FILE = Path("agents") / "tuned.json"
"""Where the file lies, below the folder that has the plug-in folders."""


@cache
def shipped() -> dict[str, Any]:
    """The file: ``{"reference", "best_rule", "instances", ..., "rules": {NAME: {"parameters", "score", ...}}}``.

    Raises:
        LlmoError: It is not there, or is no such file.
    """
    from llmo.catalog import ROOT

    try:
        content: dict[str, Any] = json.loads((ROOT / FILE).read_text())
        _ = content["reference"], content["best_rule"], content["rules"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlmoError("tuned values", str(FILE), f"the file that `llmo tune --ship` wrote ({error!r})") from error
    return content


def tuned_parameters(agent: str) -> dict[str, Any]:
    """Tuned values by parameter; empty for an agent that was never tuned."""
    parameters: dict[str, Any] = shipped()["rules"].get(agent, {}).get("parameters", {})
    return parameters


def reference_rule() -> str:
    """Registered name of the rule that scores are relative to: the better of tuned constant and tuned cosine."""
    name: str = shipped()["reference"]
    return name


def best_rule() -> str:
    """Registered name of the rule that scored best when rules were tuned."""
    name: str = shipped()["best_rule"]
    return name
