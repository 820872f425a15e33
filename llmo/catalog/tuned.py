"""The tuned values of the rules, found by `llmo tune` on train instances and shipped as `agents/tuned.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path("agents") / "tuned.json"


@cache
def shipped() -> dict[str, Any]:
    """The file: ``{"reference", "best_rule", "rules": {NAME: {"parameters", ...}}, ...}``."""
    from llmo.catalog import ROOT

    content: dict[str, Any] = json.loads((ROOT / FILE).read_text())
    return content


def tuned_parameters(agent: str) -> dict[str, Any]:
    """Tuned values by parameter; empty for an agent that was never tuned."""
    parameters: dict[str, Any] = shipped()["rules"].get(agent, {}).get("parameters", {})
    return parameters


def reference_rule() -> str:
    """Registered name of the rule that scores are relative to."""
    name: str = shipped()["reference"]
    return name
