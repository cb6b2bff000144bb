"""Only what was started here is ever ended: by record or by mark, and never by a pid alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import (
    MARK,
    ProcessRecord,
    Supervisor,
    boot_id,
    end,
    is_same,
    marked,
    parse_stat,
    start_time,
)
from tests.cluster.progress import ClusterError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that no supervisor started."""
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    one = Supervisor(tmp_path)
    yield one
    one.stop_all()


def test_stat_is_read_past_a_name_with_brackets_and_spaces() -> None:
    rest = "S 1 2 2 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1"
    assert parse_stat(f"42 (a) b (c)) {rest}") == ("S", 987654)


def test_a_zombie_and_a_missing_process_have_no_start_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 10
    while start_time(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path(f"/proc/{child.pid}").exists(), "not yet collected, so still a zombie"
    assert start_time(child.pid) is None
    child.wait()
    assert start_time(child.pid) is None


def test_a_recycled_pid_is_not_the_same_process(stranger: subprocess.Popen[bytes]) -> None:
    started = start_time(stranger.pid)
    assert started is not None
    record = ProcessRecord(name="x", pid=stranger.pid, start=started, boot=boot_id())
    assert is_same(record, boot=boot_id())
    assert not is_same(dataclasses.replace(record, start=started - 1), boot=boot_id())
    assert not is_same(record, boot="another boot")


def test_a_stale_record_never_ends_the_pids_new_owner(
    supervisor: Supervisor, tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    started = start_time(stranger.pid)
    assert started is not None
    stale = {"name": "kubelet", "pid": stranger.pid, "start": started - 1, "boot": boot_id()}
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "kubelet.json").write_text(json.dumps(stale))
    assert not supervisor.running("kubelet")
    supervisor.stop("kubelet", grace=0)
    supervisor.stop_all()
    end({stranger.pid: started - 1}, grace=0)
    assert stranger.poll() is None


def test_a_torn_record_is_no_record(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "etcd.json").write_text('{"name": "etcd", "pid"')
    assert supervisor.record("etcd") is None
    supervisor.stop_all()


def test_a_process_is_remembered_by_another_supervisor_of_the_same_state(tmp_path: Path) -> None:
    record = Supervisor(tmp_path).start("one", SLEEP)
    later = Supervisor(tmp_path)
    assert later.running("one")
    assert later.names() == ["one"]
    later.stop("one", grace=0)
    assert not later.running("one")
    assert start_time(record.pid) is None


def test_descendants_are_found_by_their_mark_when_the_record_is_lost(supervisor: Supervisor, tmp_path: Path) -> None:
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    supervisor.start("shim-parent", [sys.executable, "-c", parent])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not (found := _sleepers(tmp_path)):
        time.sleep(0.05)
    assert found, "the child outlives its parent and carries the mark"
    (tmp_path / "pids" / "shim-parent.json").unlink()
    supervisor.stop_all()
    assert not marked(str(tmp_path))


def _sleepers(state: Path) -> list[int]:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in marked(str(state))}
    return [pid for pid, command in commands.items() if b"sleep(60)" in command and b"subprocess" not in command]


def test_the_mark_of_another_state_is_left_alone(tmp_path: Path) -> None:
    one, two = Supervisor(tmp_path / "a"), Supervisor(tmp_path / "ab")
    one.state.mkdir()
    two.state.mkdir()
    two.start("x", SLEEP)
    one.stop_all()
    assert two.running("x")
    two.stop_all()
    assert not two.running("x")


def test_stop_all_never_ends_its_own_process(supervisor: Supervisor, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.cluster.processes import Supervisor;"
        "Supervisor(Path(sys.argv[1])).stop_all(); print('alive')"
    )
    environ = {**os.environ, MARK: str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "alive\n"


def test_one_that_ignores_sigterm_is_killed_after_its_grace(supervisor: Supervisor) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    supervisor.start("deaf", [sys.executable, "-c", code])
    deadline = time.monotonic() + 10
    while "deaf" not in supervisor.log("deaf").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    started = time.monotonic()
    supervisor.stop("deaf", grace=0.3)
    assert time.monotonic() - started >= 0.3
    assert not supervisor.running("deaf")


def test_one_that_died_is_named_with_its_log(supervisor: Supervisor) -> None:
    supervisor.start("broken", [sys.executable, "-c", "import time; time.sleep(.2); raise SystemExit('no such flag')"])
    deadline = time.monotonic() + 10
    while supervisor.running("broken") and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ClusterError, match=r"broken has ended; read .*broken\.log:\nno such flag"):
        supervisor.require("broken")
