"""Starting processes that outlive us, and ending exactly those.

Two things say "this one is ours": a record (pid, start time, boot) written when it was started, and a mark in its
environment that its descendants inherit (containerd's shims, for instance). Both are checked on an open pidfd right
before a signal is sent, so a recycled pid is never hit, also after a crash or a reboot.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .progress import ClusterError

MARK = "EDGEWARD_TEST_CLUSTER"  # environment variable; its value is the state directory


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """start: clock ticks after boot (field 22 of /proc/PID/stat); boot: the kernel's boot id."""

    name: str
    pid: int
    start: int
    boot: str


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(text: str) -> tuple[str, int]:
    """(state letter, start time in ticks) of a /proc/PID/stat line. The program's name, in brackets, may itself hold
    spaces and brackets, so fields are counted after the last one (proc_pid_stat(5))."""
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """None when there is no such process, or only its zombie is left."""
    try:
        state, start = parse_stat((proc / str(pid) / "stat").read_text())
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else start


def is_same(record: ProcessRecord, *, boot: str, proc: Path = Path("/proc")) -> bool:
    """Whether the recorded process still runs: same boot and same start time, not merely the same pid."""
    return record.boot == boot and start_time(record.pid, proc) == record.start


def marked(value: str, proc: Path = Path("/proc")) -> dict[int, int]:
    """pid -> start time of every process that carries MARK=value."""
    wanted = f"{MARK}={value}".encode()
    found = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environ.split(b"\0"):
            start = start_time(int(entry.name), proc)
            if start is not None:
                found[int(entry.name)] = start
    return found


def end(processes: Mapping[int, int], *, grace: float) -> None:
    """End processes given as pid -> start time: SIGTERM, then SIGKILL after `grace` seconds (0: SIGKILL at once)."""
    handles: dict[int, int] = {}
    try:
        for pid, start in processes.items():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            handles[pid] = handle
            if start_time(pid) != start:  # checked with the handle open: from here on the pid cannot change its owner
                os.close(handles.pop(pid))
        if grace > 0:
            _signal(handles.values(), signal.SIGTERM)
            _await_exit(handles.values(), grace)
        _signal(handles.values(), signal.SIGKILL)
        if not _await_exit(handles.values(), 10):
            raise ClusterError(f"processes {sorted(handles)} did not end within 10 s of SIGKILL")
    finally:
        for handle in handles.values():
            os.close(handle)
        for pid in handles:
            _reap(pid)


def _signal(handles: Iterable[int], number: signal.Signals) -> None:
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            continue


def _await_exit(handles: Iterable[int], seconds: float) -> bool:
    """A pidfd turns readable when its process ends."""
    waiting = set(handles)
    deadline = time.monotonic() + seconds
    poller = select.poll()
    for handle in waiting:
        poller.register(handle, select.POLLIN)
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for handle, _ in poller.poll(left * 1000):
            waiting.discard(handle)
            poller.unregister(handle)
    return True


def _reap(pid: int) -> None:
    """Collect our own child, so that it does not stay a zombie of a long test run."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


class Supervisor:
    """Starts named processes for one state directory, remembers them on disk, and ends them, here or in a later run."""

    def __init__(self, state: Path):
        self.state = state
        self.logs = state / "logs"
        self._records = state / "pids"
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        namespace: str | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> ProcessRecord:
        """Start one process, with its output appended to logs/NAME.log. `namespace`: a network namespace's name.

        Not `ip netns exec`: that gives the child its own /sys, which hides the cgroup mounts from a kubelet.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        self._records.mkdir(parents=True, exist_ok=True)
        argv = [str(part) for part in command]
        if namespace:
            argv = ["nsenter", f"--net=/run/netns/{namespace}", *argv]
        variables = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "HOME": str(self.state)}
        variables.update(environ or {})
        variables[MARK] = str(self.state)
        with self.log(name).open("ab") as output:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=cwd or self.state,
                start_new_session=True,
            )
        started = start_time(child.pid)
        if started is None:
            raise ClusterError(f"{name} ended at once; read {self.log(name)}")
        record = ProcessRecord(name=name, pid=child.pid, start=started, boot=boot_id())
        path = self._path(name)
        half = path.with_suffix(".new")
        half.write_text(json.dumps(asdict(record)))
        half.rename(path)
        self._children[child.pid] = child
        return record

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def names(self) -> list[str]:
        return sorted(p.stem for p in self._records.glob("*.json"))

    def record(self, name: str) -> ProcessRecord | None:
        try:
            return ProcessRecord(**json.loads(self._path(name).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def running(self, name: str) -> bool:
        record = self.record(name)
        return record is not None and is_same(record, boot=boot_id())

    def require(self, *names: str) -> None:
        """ClusterError, with the log's end, for the first of these that no longer runs."""
        for name in names:
            if not self.running(name):
                log = self.log(name)
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-6:]) if log.exists() else ""
                raise ClusterError(f"{name} has ended; read {log}:\n{tail}")

    def stop(self, *names: str, grace: float = 5) -> None:
        """End these (those that still run) and forget them."""
        boot = boot_id()
        records = [r for r in map(self.record, names) if r is not None]
        end({r.pid: r.start for r in records if is_same(r, boot=boot)}, grace=grace)
        for name in names:
            self._path(name).unlink(missing_ok=True)
        self._forget_children()

    def stop_all(self, *, grace: float = 0, extra: Callable[[], Mapping[int, int]] = dict) -> None:
        """End every recorded and every marked process (and `extra()`, pid -> start time), until none is left."""
        boot = boot_id()
        for _ in range(20):
            records = [r for r in map(self.record, self.names()) if r is not None]
            found = {r.pid: r.start for r in records if is_same(r, boot=boot)}
            found.update(marked(str(self.state)))
            found.update(extra())
            found.pop(os.getpid(), None)
            if not found:
                break
            end(found, grace=grace)
        for name in self.names():
            self._path(name).unlink(missing_ok=True)
        self._forget_children()

    def _path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _forget_children(self) -> None:
        """Popen objects of ended children; polling them keeps Python from warning about them later."""
        for pid in [pid for pid, child in self._children.items() if child.poll() is not None]:
            del self._children[pid]
