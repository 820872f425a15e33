"""The tuned values of the rules, found by `llmo tune` on train instances and shipped as `agents/tuned.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from llmo.errors import LlmoError

FILE = Path("agents") / "tuned.json"
"""Where the file lies, below the folder that has the plug-in folders."""
DEFAULT_ENV = "llmo/LanguageModel-v1"
"""Environment whose values hold wherever rules were not tuned."""


@cache
def everything() -> dict[str, Any]:
    """The whole file: what was found, by environment.

    Raises:
        LlmoError: The file is not there, or is no such file.
    """
    from llmo.catalog import ROOT

    try:
        content: dict[str, Any] = json.loads((ROOT / FILE).read_text())
        for tuned in content.values():
            _ = tuned["reference"], tuned["best_rule"], tuned["rules"]
        _ = content[DEFAULT_ENV]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LlmoError("tuned values", str(FILE), f"the file that `llmo tune --ship` wrote ({error!r})") from error
    return content


def shipped(env: str = DEFAULT_ENV) -> dict[str, Any]:
    """What was found in an environment: ``{"reference", "best_rule", "rules": {NAME: {"parameters", ...}}, ...}``.

    Args:
        env: Registered name, with or without a folder; where nothing was tuned, the values of `DEFAULT_ENV`.

    Raises:
        LlmoError: The file is not there, or is no such file.
    """
    content: dict[str, Any] = everything().get(env.partition(":")[0], everything()[DEFAULT_ENV])
    return content


def tuned_parameters(agent: str, env: str = DEFAULT_ENV) -> dict[str, Any]:
    """Tuned values by parameter; empty for an agent that was never tuned."""
    parameters: dict[str, Any] = shipped(env)["rules"].get(agent, {}).get("parameters", {})
    return parameters


def reference_rule(env: str = DEFAULT_ENV) -> str:
    """Registered name of the rule that scores are relative to: the better of tuned constant and tuned cosine."""
    name: str = shipped(env)["reference"]
    return name


def best_rule(env: str = DEFAULT_ENV) -> str:
    """Registered name of the rule that scored best when rules were tuned."""
    name: str = shipped(env)["best_rule"]
    return name
