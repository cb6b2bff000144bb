"""How many CPUs this process may really use.

onnxruntime sizes its pools by the host's physical cores and does not see a container's CPU quota, so a pod limited to
one CPU on a 64-core node would run 64 threads and be throttled. The kernel's files tell the truth:
cgroup v2 `cpu.max` holds "QUOTA PERIOD" or "max PERIOD" (microseconds); cgroup v1 holds `cpu.cfs_quota_us` (-1 = none)
and `cpu.cfs_period_us`. Limits of every ancestor count, so the smallest on the way to the root wins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _ratio(quota: str, period: str) -> float | None:
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _v2_limit(directory: Path) -> float | None:
    fields = (_read(directory / "cpu.max") or "").split()
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _v1_limit(directory: Path) -> float | None:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    return _ratio(quota, period) if quota is not None and period is not None else None


def _membership(proc_cgroup: str) -> tuple[str, str]:
    """The process's paths in the v2 hierarchy and in v1's cpu hierarchy, from the text of /proc/self/cgroup."""
    v2 = v1 = "/"
    for line in proc_cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            v2 = path
        elif "cpu" in controllers.split(","):
            v1 = path
    return v2, v1


def _smallest(root: Path, path: str, limit_of: object) -> float | None:
    """The smallest limit from root/path up to root. Inside a container the path of the host's view often does not exist
    below the mounted root; then only the root, which is the container's own cgroup, is read."""
    assert callable(limit_of)
    here = root / path.lstrip("/")
    if not here.is_dir():
        here = root
    found: list[float] = []
    while True:
        limit = limit_of(here)
        if limit is not None:
            found.append(limit)
        if here == root or root not in here.parents:
            break
        here = here.parent
    return min(found, default=None)


def cpu_quota(*, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the quota allows (1.5 = one and a half), or None without a quota. Both versions are looked at: hybrid
    hosts mount v2 without the cpu controller beside v1."""
    v2_path, v1_path = _membership(_read(proc) or "")
    found = [_smallest(root, v2_path, _v2_limit)]
    found += [_smallest(root / name, v1_path, _v1_limit) for name in ("cpu", "cpu,cpuacct") if (root / name).is_dir()]
    return min((limit for limit in found if limit is not None), default=None)


def intra_op_threads(*, quota: float | None, affinity: int, parallel_runs: int = 1) -> int:
    """Threads for one session.run: max(1, floor(quota)) over the runs that may happen at once, never more than the
    cores the process may be scheduled on."""
    usable = affinity if quota is None else min(affinity, int(quota))
    return max(1, usable // parallel_runs)


def default_threads() -> int:
    return intra_op_threads(quota=cpu_quota(), affinity=len(os.sched_getaffinity(0)))


def _memory(name: str) -> Callable[[Path], float | None]:
    def limit_of(directory: Path) -> float | None:
        text = _read(directory / name) or ""
        # cgroup v1 says "no limit" with the largest multiple of a page.
        return float(text) if text.isdigit() and int(text) < 2**60 else None

    return limit_of


def memory_limit(*, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float | None:
    """Bytes, or None without a limit: cgroup v2 `memory.max`, v1 `memory.limit_in_bytes`."""
    found = [_smallest(root, _membership(_read(proc) or "")[0], _memory("memory.max"))]
    found.append(_smallest(root / "memory", "/", _memory("memory.limit_in_bytes")))
    return min((limit for limit in found if limit is not None), default=None)


def memory_available(
    *,
    root: Path = Path("/sys/fs/cgroup"),
    proc: Path = Path("/proc/self/cgroup"),
    meminfo: Path = Path("/proc/meminfo"),
) -> float | None:
    """Bytes that can still be had: the smallest of what each cgroup on the way to the root has left, its page cache
    counted as free but for what is mapped, and what the kernel says for the whole machine. None if nobody says."""
    found = [
        _smallest(root, _membership(_read(proc) or "")[0], _left("memory.max", "memory.current", "")),
        _smallest(root / "memory", "/", _left("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")),
    ]
    machine = [line.split() for line in (_read(meminfo) or "").splitlines() if line.startswith("MemAvailable:")]
    found += [float(fields[1]) * 1024 for fields in machine]
    return min((one for one in found if one is not None), default=None)


def _left(limit: str, usage: str, prefix: str) -> Callable[[Path], float | None]:
    limit_of, used_of = _memory(limit), _memory(usage)

    def left(directory: Path) -> float | None:
        most, used = limit_of(directory), used_of(directory)
        if most is None or used is None:
            return None
        pages = dict(
            line.split() for line in (_read(directory / "memory.stat") or "").splitlines() if line.count(" ") == 1
        )
        cache = sum(int(pages.get(prefix + name, 0)) for name in ("inactive_file", "active_file"))
        mapped = int(pages.get(prefix + ("mapped_file" if prefix else "file_mapped"), 0))
        return max(0.0, most - used + max(0, cache - mapped))

    return left


def bytes_in_flight(*, limit: float | None, max_body: int) -> int:
    """What request bodies may take together: a quarter of the memory, since parsing makes more of them."""
    return 2 * max_body if limit is None else int(limit / 4)
