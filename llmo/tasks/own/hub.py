"""A data set of the hub by its name and, where it has several, its configuration: `glue:cola`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from llmo.errors import LlmoError, needs_extra

LISTED = 60
"""Most configurations that an error names; of a wrong one those with the nearest names."""


def load_from_hub(data: str) -> Any:
    """Load all splits of a data set.

    Args:
        data: Its name on the hub, or a folder with a copy of it, and after a colon its configuration.

    Returns:
        A `datasets.DatasetDict`.

    Raises:
        LlmoError: The hub cannot give it, it has no such configuration, or several and none was named.
    """
    needs_extra(f"data {data}", "datasets", "own")
    import datasets

    name, _, configuration = data.partition(":")
    try:
        return datasets.load_dataset(name, configuration or None)
    except Exception as error:
        names = _configurations(name) if isinstance(error, ValueError) else []
        if configuration and names and configuration not in names:
            near = names if len(names) <= LISTED else get_close_matches(configuration, names, LISTED, cutoff=0.0)
            raise LlmoError(f"configuration of {name}", configuration, near) from error
        if not configuration and len(names) > 1:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            listed = ", ".join(names[:LISTED]) + more
            raise LlmoError("data", data, f"{name}:CONFIGURATION with one of {listed}") from error
        # The hub's client raises a dozen unrelated classes, from offline to "no such data set".
        told = " ".join(str(error).split())[:200]
        raise LlmoError("data", data, f"a file or folder, or a data set that the hub can give ({told})") from error


def _configurations(name: str) -> list[str]:
    """Names of a data set's configurations; none where the hub does not say."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(name))
    except Exception:
        return []
