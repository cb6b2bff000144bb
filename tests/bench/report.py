"""Where figures go, and what was measured on."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.split()[1]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def pss_mb(pids: list[int]) -> float:
    """Proportional set size summed over processes, in MiB: shared pages count once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return round(total / 1024, 1)


def write(name: str, *, versions: dict[str, Any], figures: dict[str, Any], notes: dict[str, str] | None = None) -> Path:
    """results/NAME.json. A figure that could not be measured is None, with the reason in notes."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"machine": machine(), "versions": versions, "figures": figures, "notes": notes or {}}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return path


def merge(name: str, *, versions: dict[str, Any], figures: dict[str, Any], notes: dict[str, str] | None = None) -> Path:
    """Puts figures into results/NAME.json beside those of its other parts, which may be measured at other times."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return write(
        name,
        versions={**known.get("versions", {}), **versions},
        figures={**known.get("figures", {}), **figures},
        notes={**{key: one for key, one in known.get("notes", {}).items() if key not in figures}, **(notes or {})},
    )
