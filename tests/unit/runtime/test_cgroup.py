from __future__ import annotations

import pytest

from edgeward_runtime.cgroup import bytes_in_flight, cpu_quota, intra_op_threads, memory_limit


def tree(root, files):
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


V1 = "3:cpu,cpuacct:/kubepods/pod1/abc\n2:memory:/x\n0::/system.slice\n"


@pytest.mark.parametrize(
    ("proc", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, 2.0),
        ("0::/not/seen/here\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "rubbish"}, None),
        ("", {"cpu.max": "100000 100000"}, 1.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (
            V1,
            {"cpu/kubepods/pod1/abc/cpu.cfs_quota_us": "250000", "cpu/kubepods/pod1/abc/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (V1, {"cpu/kubepods/pod1/cpu.cfs_quota_us": "50000", "cpu/kubepods/pod1/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1.0),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None),
    ],
)
def test_quota(tmp_path, proc, files, expected):
    root = tree(tmp_path / "cgroup", files)
    root.mkdir(exist_ok=True)
    (tmp_path / "self").write_text(proc)
    # Without the leaf directory a process sees the container's root only.
    if expected is None and "cpu/kubepods/pod1/cpu.cfs_quota_us" in files:
        (root / "cpu/kubepods/pod1/abc").mkdir(parents=True)
        expected = 0.5
    assert cpu_quota(root=root, proc=tmp_path / "self") == expected


def test_quota_without_cgroups(tmp_path):
    assert cpu_quota(root=tmp_path / "none", proc=tmp_path / "none") is None


@pytest.mark.parametrize(
    ("quota", "affinity", "runs", "threads"),
    [(None, 8, 1, 8), (None, 8, 2, 4), (0.5, 8, 1, 1), (1.9, 8, 1, 1), (2.0, 8, 1, 2), (16.0, 4, 1, 4), (3.0, 8, 4, 1)],
)
def test_threads(quota, affinity, runs, threads):
    assert intra_op_threads(quota=quota, affinity=affinity, parallel_runs=runs) == threads


def test_memory(tmp_path):
    (tmp_path / "self").write_text("0::/\n")
    root = tree(tmp_path / "cgroup", {"memory.max": "max\n"})
    assert memory_limit(root=root, proc=tmp_path / "self") is None
    tree(root, {"memory.max": "268435456\n"})
    assert memory_limit(root=root, proc=tmp_path / "self") == 2**28
    tree(root, {"memory.max": "max", "memory/memory.limit_in_bytes": "9223372036854771712"})
    assert memory_limit(root=root, proc=tmp_path / "self") is None
    assert bytes_in_flight(limit=2**28, max_body=2**26) == 2**26
    assert bytes_in_flight(limit=None, max_body=2**26) == 2**27
