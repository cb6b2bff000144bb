"""measured.json: what the publisher measured, so that a site knows what to expect before it has run the model once.

    {"memoryBytes": 73400320, "latencySeconds": 0.0123, "threads": 1, "architecture": "amd64"}

memoryBytes: the peak of a process that loads and runs it, less one that does not. latencySeconds: one run of one row, the
fastest of a few, with so many threads. All are optional and others may be there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgeward_runtime.artifact.files import read_json

_FIGURES = ("memoryBytes", "latencySeconds", "threads")


def read(path: Path) -> dict[str, Any]:
    """Refusal BadMeasured (step Load, permanent) for a figure that is none."""
    document, refuse = read_json(path, reason="BadMeasured")
    for key in _FIGURES:
        value = document.get(key)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value) or value <= 0):
            raise refuse(f"{key} is {value!r:.50}, wanted a number above 0")
    return document
