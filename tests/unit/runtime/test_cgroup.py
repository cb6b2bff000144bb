from __future__ import annotations

import pytest

from edgeward_runtime.cgroup import bytes_in_flight, cpu_quota, intra_op_threads, memory_available, memory_limit


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


MIB = 2**20


@pytest.mark.parametrize(
    ("proc", "files", "expected"),
    [
        ("0::/\n", {}, 900 * MIB),
        ("0::/\n", {"memory.max": "max", "memory.current": f"{50 * MIB}"}, 900 * MIB),
        ("0::/\n", {"memory.max": f"{200 * MIB}", "memory.current": f"{150 * MIB}"}, 50 * MIB),
        # Page cache goes when memory is wanted, what is mapped (the libraries) would come back at once.
        (
            "0::/\n",
            {
                "memory.max": f"{200 * MIB}",
                "memory.current": f"{150 * MIB}",
                "memory.stat": f"anon 9\ninactive_file {30 * MIB}\nactive_file {20 * MIB}\nfile_mapped {10 * MIB}\n",
            },
            90 * MIB,
        ),
        ("0::/\n", {"memory.max": f"{100 * MIB}", "memory.current": f"{150 * MIB}"}, 0),
        # The pod's limit is nearer than the container's.
        (
            "0::/pod/box\n",
            {
                "pod/memory.max": f"{300 * MIB}",
                "pod/memory.current": f"{280 * MIB}",
                "pod/box/memory.max": f"{200 * MIB}",
                "pod/box/memory.current": f"{100 * MIB}",
            },
            20 * MIB,
        ),
        (
            "2:memory:/\n",
            {
                "memory/memory.limit_in_bytes": f"{200 * MIB}",
                "memory/memory.usage_in_bytes": f"{180 * MIB}",
                "memory/memory.stat": f"total_inactive_file {8 * MIB}\ntotal_active_file 0\ntotal_mapped_file 0\n",
            },
            28 * MIB,
        ),
        (
            "2:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"},
            900 * MIB,
        ),
    ],
)
def test_memory_that_can_still_be_had(tmp_path, proc, files, expected):
    root = tree(tmp_path / "cgroup", files)
    root.mkdir(exist_ok=True)
    (tmp_path / "self").write_text(proc)
    (tmp_path / "meminfo").write_text(f"MemTotal: 4000000 kB\nMemAvailable: {900 * 1024} kB\n")
    assert memory_available(root=root, proc=tmp_path / "self", meminfo=tmp_path / "meminfo") == expected


def test_memory_of_which_nothing_is_known(tmp_path):
    nowhere = tmp_path / "none"
    assert memory_available(root=nowhere, proc=nowhere, meminfo=nowhere) is None
