"""The model store against what a box in the field goes through: killed at any byte and between any two steps, disks that
are full, read-only or damaged, no network. Whatever it is, what served last serves."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.fetch import Access, Limits, fetch
from edgeward_runtime.store import Store
from tests.integration.test_runtime_serving import LIMIT, Server, publish, row, server
from tests.runtime_artifacts import made
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import constant_times, digest

REPOSITORY = Path(__file__).parents[2]
LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=20, total_seconds=60)


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        one.ranges = True
        yield one


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- killed at any byte -----------------------------------------------------------------------------------------------

# What a runtime does in its manager's thread, alone: quick to start and to kill.
FETCHER = """
import json, os, signal, sys, time
from pathlib import Path
from edgeward_runtime.config import Entry
from edgeward_runtime.fetch import Access, Limits, fetch
from edgeward_runtime.store import Store

asked = json.loads(sys.argv[1])
entry = Entry(name="m", version="1", digest=asked["digest"], sources=(asked["source"],))
limits = Limits(max_bytes=1 << 30, timeout_seconds=20, total_seconds=60)

def wait(seconds):
    print("waits", flush=True)
    time.sleep(seconds)

def bring(root):
    store = Store(Path(root), sleep=wait)
    store.clean()
    fetch(entry, store=store, limits=limits, cancelled=bool, shunned={}, access=Access(plain_http=frozenset(asked["plain"])))

def killed_at(step):
    # Before the step-th call of anything that changes the disk.
    left = [step]
    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for name in ("fsync", "fchmod", "rename", "link", "unlink", "mkdir", "ftruncate", "utime", "open"):
        setattr(os, name, counted(getattr(os, name)))

if "root" in asked:
    bring(asked["root"])
else:
    for step in range(1, 1000):
        pid = os.fork()
        if pid == 0:
            killed_at(step)
            bring(asked["roots"] + "/" + str(step))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(step, "killed" if os.WIFSIGNALED(status) else "done" if status == 0 else "failed", flush=True)
        if not os.WIFSIGNALED(status):
            break
"""


def start(**asked: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "edge-runtime")}
    command = [sys.executable, "-c", FETCHER, json.dumps({"plain": [], **asked})]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _arrived(source: Source, requests: int, partial: Path, place: int) -> bool:
    """Whether one more request came, and so many bytes of the file are there."""
    there = partial.stat().st_size if partial.exists() else 0
    return len(source.requests) > requests and there == place


def test_killed_at_any_byte(tmp_path, source):
    """One download, killed at 24 places, each time gone on with exactly where it was."""
    content = os.urandom(40 * 2**20)  # more than two of the points at which it is synced
    source.files["/m.onnx"], source.etags["/m.onnx"] = content, '"1"'
    partial = tmp_path / "partial" / digest(content).removeprefix("sha256:")
    end = len(content)
    places = [0, 1, 2, 1000, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145, 10**6, 16 * 2**20 - 1, 16 * 2**20]
    places += [16 * 2**20 + 1, 17_000_000, 20_000_000, 25_000_000, 32 * 2**20 - 1, 32 * 2**20, 32 * 2**20 + 1]
    places += [35_000_000, end - 65_537, end - 2, end - 1]
    before = 0
    for place in places:
        source.stall_at = place
        process = start(root=str(tmp_path), digest=digest(content), source=source.url("/m.onnx"))
        arrived = functools.partial(_arrived, source, len(source.requests), partial, place)
        until(arrived)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        asked = source.headers[-1].get("range")
        assert asked == (f"bytes={before}-" if before else None)
        assert Store(tmp_path).find(digest(content)) is None
        before = place
    source.go_on.set()
    process = start(root=str(tmp_path), digest=digest(content), source=source.url("/m.onnx"))
    assert process.wait(LIMIT) == 0
    assert source.headers[-1]["range"] == f"bytes={end - 1}-"
    path = Store(tmp_path).find(digest(content))
    assert path is not None and path.read_bytes() == content
    assert not list((tmp_path / "partial").iterdir())


def test_another_pod_goes_on_where_one_was_killed(tmp_path, source):
    content = os.urandom(2**20)
    source.files["/m.onnx"], source.stall_at = content, 300_000
    partial = tmp_path / "partial" / digest(content).removeprefix("sha256:")
    asked = {"root": str(tmp_path), "digest": digest(content), "source": source.url("/m.onnx")}
    first = start(**asked)
    until(functools.partial(_arrived, source, 0, partial, 300_000))
    second = start(**asked)
    assert second.stdout is not None and second.stdout.readline() == "waits\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    source.go_on.set()
    assert second.wait(LIMIT) == 0
    assert [headers.get("range") for headers in source.headers] == [None, "bytes=300000-"]
    found = Store(tmp_path).find(digest(content))
    assert found is not None and found.read_bytes() == content


FILES = {"model.onnx": b"model" * 20_000, "weights/w.bin": b"weights" * 20_000}
BUILT = made(FILES)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["file", "artifact"])
def test_killed_between_any_two_steps(tmp_path, source, kind):
    """Each store is that of a process that was killed before one more of its calls to the disk; then the next process
    finds either all or nothing, and gets the rest."""
    if kind == "artifact":
        source.files[f"/v2/m/manifests/{BUILT.digest}"] = BUILT.manifest
        source.files |= {f"/v2/m/blobs/{digest(content)}": content for content in FILES.values()}
        host = source.address.removeprefix("http://")
        wanted, address, plain = BUILT.digest, f"oci://{host}/m", [host]
    else:
        source.files["/m.onnx"] = FILES["model.onnx"]
        wanted, address, plain = digest(FILES["model.onnx"]), source.url("/m.onnx"), []
    process = start(roots=str(tmp_path), digest=wanted, source=address, plain=plain)
    said, errors = process.communicate(timeout=120)
    *killed, last = said.split("\n")[:-1]
    assert last.endswith("done"), errors[-2000:]
    assert len(killed) > (30 if kind == "artifact" else 12) and all(line.endswith("killed") for line in killed)
    for step in range(1, len(killed) + 2):
        store = Store(tmp_path / str(step))
        store.clean()
        found = store.find(wanted)
        if found is None:
            found = fetch(
                Entry(name="m", version="1", digest=wanted, sources=(address,)),
                store=store,
                limits=LIMITS,
                cancelled=bool,
                shunned={},
                access=Access(plain_http=frozenset(plain)),
            ).path
        assert (contents(found) == FILES) if kind == "artifact" else (found.read_bytes() == FILES["model.onnx"])
        left = [path for folder in ("partial", "trash") for path in (store.root / folder).glob("*")]
        left += [path for folder in ("manifests", "releases") for path in (store.root / folder / "sha256").glob(".*")]
        assert not left, f"step {step}"


# -- disks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "edgeward-test", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A store of 2 MiB."""
    with small_disk(tmp_path / "store", 2 * 2**20):
        yield tmp_path / "store"


def answers(one: Server, factor: float) -> bool:
    status, document, _ = one.infer(row(1, 2, 3, 4))
    return bool(status == 200 and document["outputs"][0]["data"] == [factor * value for value in (1, 2, 3, 4)])


def big(factor: float, size: int) -> bytes:
    """A model of so many bytes, most of them a text that nobody reads."""
    model = onnx.load_from_string(constant_times(factor))
    model.doc_string = "x" * size
    return bytes(model.SerializeToString())


V1 = constant_times(2.0)


def test_a_full_disk(tmp_path, source, disk):
    with server(tmp_path) as one:
        one.want(publish(source, "1", V1))
        one.until(lambda: one.serves("1"))
        one.want(publish(source, "2", big(3.0, 3 * 2**20)), revision=2)
        refused = one.until(lambda: one.refused("2"))
        assert refused["step"] == "Fetch" and refused["reason"] == "DiskFull"
        assert answers(one, 2.0) and one.get("/v2/health/ready")[0] == 200
    source.status = 500
    with server(tmp_path) as one:
        one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        assert answers(one, 2.0)
        source.status = None
        one.want(publish(source, "3", constant_times(4.0)), revision=3)
        one.until(lambda: one.serves("3"))


def test_a_full_disk_is_cleared_of_what_nobody_needs(tmp_path, source, disk):
    """To the last byte, so that not even a lock file of a new name fits."""
    store, old = Store(disk), os.urandom(2**20)
    with store.locked(digest(old), cancelled=bool), store.partial(digest(old)) as partial:
        partial.write(old)
        store.commit(digest(old), partial)
    with server(tmp_path) as one:
        one.want(publish(source, "1", V1))
        one.until(lambda: one.serves("1"))
        with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
            while fill.write(b"x" * 4096):
                pass
        one.want(publish(source, "2", big(3.0, 2**19)), revision=2)
        one.until(lambda: one.serves("2"))
        assert answers(one, 3.0) and not store.has(digest(old))


def test_a_disk_that_fills_up_on_the_way(tmp_path, source):
    """Here the process itself may write no larger files, as with a quota of the file system: nothing told before."""
    with server(tmp_path) as one:
        one.want(publish(source, "1", V1))
        one.until(lambda: one.serves("1"))
        unlimited = resource.RLIM_INFINITY
        resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (2**20, unlimited))
        one.want(publish(source, "2", big(3.0, 3 * 2**20)), revision=2)
        refused = one.until(lambda: one.refused("2"))
        assert refused["step"] == "Fetch" and refused["reason"] == "DiskFull"
        assert answers(one, 2.0) and one.get("/v2/health/ready")[0] == 200
        resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        one.until(lambda: one.serves("2"))
        assert source.headers[-1].get("range") == f"bytes={2**20}-", "what had come was kept"


def test_a_read_only_disk(tmp_path, source, disk):
    with server(tmp_path) as one:
        one.want(publish(source, "1", V1))
        one.until(lambda: one.serves("1"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    source.status = 500
    with server(tmp_path) as one:
        one.until(lambda: one.serves("1"))
        assert answers(one, 2.0)
        source.status = None
        one.want(publish(source, "2", constant_times(3.0)), revision=2)
        refused = one.until(lambda: one.refused("2"))
        assert refused["step"] == "Fetch" and refused["reason"] == "StoreUnwritable"
        assert answers(one, 2.0)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        one.until(lambda: one.serves("2"))


def damage(folder: Path, content: bytes) -> None:
    path = folder / "store" / "blobs" / "sha256" / digest(content).removeprefix("sha256:")
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_a_damaged_model_and_no_network(tmp_path, source):
    """What serves is damaged on disk while nobody looks. The version before is still there, so that one serves until
    the network is back."""
    v2 = constant_times(3.0)
    with server(tmp_path) as one:
        one.want(publish(source, "1", V1))
        one.until(lambda: one.serves("1"))
        one.want(publish(source, "2", v2), revision=2)
        one.until(lambda: one.serves("2"))
    damage(tmp_path, v2)
    source.status = 500
    with server(tmp_path) as one:
        one.until(lambda: one.get("/v2/health/ready")[0] == 200)
        assert answers(one, 2.0)
        assert one.until(lambda: one.refused("2"))["reason"] == "Unreachable"
        source.status = None
        one.until(lambda: one.serves("2"))
        assert answers(one, 3.0)


def test_a_quota_shared_by_two_jobs(tmp_path, source):
    """Room for four models: the fifth takes the place of what neither job serves or served before."""
    size = len(V1)
    with server(tmp_path, EDGEWARD_STORE_BYTES=str(4 * size + 10)) as one:
        for number in range(1, 6):
            one.want(publish(source, str(number), constant_times(float(number))), revision=number)
            one.until(functools.partial(one.serves, str(number)))
        kept = {path.read_bytes() for path in (tmp_path / "store" / "blobs" / "sha256").iterdir()}
        assert kept == {constant_times(float(number)) for number in (2, 3, 4, 5)}
        metrics = one.get("/metrics")[1]
        assert "edgeward_store_evicted_models_total 1.0" in metrics
        assert f"edgeward_store_bytes {float(4 * size)}" in metrics
        assert f'edgeward_fetches_total{{result="Fetched",source="{source.address}"}} 5.0' in metrics


@pytest.mark.parametrize("years", [-30, 70])
def test_a_clock_that_jumps(tmp_path, source, years):
    """Between two starts of the process; the disk's own times stay as they are. What served serves, a source that was
    away is asked again soon, and the oldest model goes first."""
    versions = {str(number): constant_times(float(number)) for number in range(1, 5)}
    quota = {"EDGEWARD_STORE_BYTES": str(3 * len(V1) + 10)}
    with server(tmp_path, **quota) as one:
        for number in ("1", "2"):
            one.want(publish(source, number, versions[number]), revision=int(number))
            one.until(functools.partial(one.serves, number))
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nseconds, nanoseconds, jump = time.time, time.time_ns, {years} * 31_557_600\n"
        "time.time = lambda: seconds() + jump\ntime.time_ns = lambda: nanoseconds() + jump * 10**9\n"
    )
    source.status = 503
    with server(tmp_path, **quota, PYTHONPATH=f"{tmp_path}:{REPOSITORY / 'edge-runtime'}") as one:
        one.until(lambda: one.serves("2"))
        assert abs(int(one.model("2")["since"][:4]) - time.gmtime().tm_year - years) <= 1, "the clock is wrong indeed"
        one.want(publish(source, "3", versions["3"]), revision=3)
        one.until(lambda: one.refused("3"))
        source.status = None
        for number in ("3", "4"):
            one.want(publish(source, number, versions[number]), revision=int(number))
            one.until(functools.partial(one.serves, number))
    kept = {path.read_bytes() for path in (tmp_path / "store" / "blobs" / "sha256").iterdir()}
    assert kept == {versions[number] for number in ("2", "3", "4")}


def test_no_network_at_all(tmp_path, source):
    """In a network of its own that has not even a loopback device: what is on disk serves at once. Nobody can ask it, so
    its log has to tell."""
    with server(tmp_path) as one:
        one.want(publish(source, "1", V1))
        one.until(lambda: one.serves("1"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "edge-runtime"),
        "EDGEWARD_CONFIG_DIR": str(tmp_path / "config"),
        "EDGEWARD_STORE": str(tmp_path / "store"),
    }
    command = ["unshare", "--net", sys.executable, "-m", "edgeward_runtime.cli"]
    with (tmp_path / "offline").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    try:
        until(lambda: '"message":"version serves"' in (tmp_path / "offline").read_text() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "offline").read_text()[-2000:]
    finally:
        process.kill()
        process.wait(LIMIT)
