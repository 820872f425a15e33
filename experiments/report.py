"""Makes pictures and one HTML page of a comparison.

llmo report runs/demo
"""

from __future__ import annotations

from pathlib import Path

from llmo.registry import experiments


@experiments.register("report")
def report(folder: Path, train: Path | None = None) -> None:
    """Make pictures and one HTML page of a comparison.

    Args:
        folder: What `llmo benchmark` or `llmo demo` wrote; it gets `report.html` and the folder `report`.
        train: Folder of a training to show the learning curve of; by default the folder's own `train`, if there is one.
    """
    from llmo.evaluation.report import write_report

    print(f"the report is in {write_report(folder, train)}")
