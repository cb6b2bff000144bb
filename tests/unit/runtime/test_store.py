from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import Limits, fetch
from edgeward_runtime.store import Store, disk_errors
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

CONTENT = os.urandom(1 << 20)
LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=5, total_seconds=60)
NEVER = bool  # cancelled(): False


def put(store: Store, content: bytes) -> Path:
    name = digest(content)
    with store.locked(name, cancelled=NEVER):
        with store.writing(name) as file:
            file.write(content)
        return store.commit(name)


def test_a_blob_is_there_after_commit_and_not_before(tmp_path):
    store = Store(tmp_path)
    name = digest(CONTENT)
    with store.locked(name, cancelled=NEVER):
        with store.writing(name) as file:
            file.write(CONTENT)
        assert store.verified(name) is None
        store.commit(name)
    assert store.verified(name).read_bytes() == CONTENT
    assert not list((tmp_path / "partial").iterdir())


def test_an_error_while_writing_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.writing(digest(CONTENT)) as file:
        file.write(b"half")
        raise RuntimeError
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: b"\0" + raw[1:], lambda raw: raw + b"x"]
)
def test_a_damaged_blob_is_dropped(tmp_path, damage):
    store = Store(tmp_path)
    path = put(store, CONTENT)
    path.chmod(0o644)
    path.write_bytes(damage(CONTENT))
    assert store.verified(digest(CONTENT)) is None
    assert not path.exists()
    assert put(store, CONTENT).read_bytes() == CONTENT


def test_one_holder_of_a_lock_at_a_time(tmp_path):
    store, inside, order = Store(tmp_path), threading.Event(), []

    def other() -> None:
        inside.wait()
        with Store(tmp_path).locked("sha256:ab", cancelled=NEVER):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with store.locked("sha256:ab", cancelled=NEVER):
        inside.set()
        time.sleep(0.25)
        order.append("first")
    thread.join(5)
    assert order == ["first", "other"]


def test_waiting_for_a_lock_can_be_given_up(tmp_path):
    other = Store(tmp_path, sleep=lambda _s: None)
    with Store(tmp_path).locked("sha256:ab", cancelled=NEVER), pytest.raises(Cancelled):
        other.locked("sha256:ab", cancelled=lambda: True).__enter__()


# Fetches its second argument into the store of its first; the test kills it on the way.
FETCHER = """
import sys
from pathlib import Path
from edgeward_runtime.config import Entry
from edgeward_runtime.fetch import Limits, fetch
from edgeward_runtime.store import Store
root, digest, url = sys.argv[1:]
entry = Entry(name="m", version="1", digest=digest, sources=(url,))
print(fetch(entry, store=Store(Path(root)), limits=Limits(max_bytes=1 << 30, timeout_seconds=5, total_seconds=60),
      cancelled=bool, shunned={}))
"""


def start_fetcher(root: Path, name: str, url: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, str(root), name, url], env=environment, stdout=subprocess.PIPE
    )


def test_killed_in_the_middle_of_a_download(tmp_path):
    name = digest(CONTENT)
    with serving() as source:
        source.files["/m.onnx"] = CONTENT
        source.chunk, source.seconds_per_chunk = 128 * 1024, 0.1
        process = start_fetcher(tmp_path, name, source.url("/m.onnx"))
        partial = tmp_path / "partial" / name.removeprefix("sha256:")
        deadline = time.monotonic() + 20
        while not (partial.exists() and partial.stat().st_size > 0):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = Store(tmp_path)
        assert partial.exists() and store.verified(name) is None
        store.clean()
        assert not partial.exists()
        source.seconds_per_chunk = 0.0
        entry = Entry(name="m", version="1", digest=name, sources=(source.url("/m.onnx"),))
        assert fetch(entry, store=store, limits=LIMITS, cancelled=NEVER, shunned={}) == len(CONTENT)
    assert store.verified(name).read_bytes() == CONTENT


def test_clean_leaves_a_running_download_alone(tmp_path):
    store, name = Store(tmp_path), digest(CONTENT)
    with store.locked(name, cancelled=NEVER), store.writing(name) as file:
        file.write(CONTENT)
        Store(tmp_path).clean()
        assert len(list((tmp_path / "partial").iterdir())) == 1


def test_two_pods_of_a_node_download_once(tmp_path):
    name = digest(CONTENT)
    with serving() as source:
        source.files["/m.onnx"] = CONTENT
        source.chunk, source.seconds_per_chunk = 128 * 1024, 0.05
        pods = [start_fetcher(tmp_path, name, source.url("/m.onnx")) for _ in range(2)]
        fetched = sorted(int(pod.communicate(timeout=30)[0]) for pod in pods)
        assert fetched == [0, len(CONTENT)] and source.requests == ["/m.onnx"]


def test_records(tmp_path):
    store = Store(tmp_path)
    assert store.read_record("ns", "job", "last-good") == {}
    assert store.write_record("ns", "job", "last-good", {"m": {"version": "1"}})
    assert store.read_record("ns", "job", "last-good") == {"m": {"version": "1"}}
    path = tmp_path / "jobs" / "ns" / "job" / "last-good.json"
    assert [one.name for one in path.parent.iterdir()] == ["last-good.json"]
    for rubbish in (b"{", b"[]", b""):
        path.write_bytes(rubbish)
        assert store.read_record("ns", "job", "last-good") == {}


def test_a_record_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "jobs").write_text("a file where a folder should be")
    assert Store(tmp_path).write_record("ns", "job", "last-good", {}) is False


@pytest.mark.parametrize(
    ("number", "reason"), [(28, "DiskFull"), (122, "DiskFull"), (30, "StoreUnwritable"), (13, "StoreUnwritable")]
)
def test_disk_errors_have_a_reason(number, reason):
    with pytest.raises(Refusal) as caught, disk_errors():
        raise OSError(number, os.strerror(number))
    assert caught.value.reason == reason and not caught.value.permanent


def test_eviction_spares_what_is_wanted_last_good_or_locked(tmp_path):
    store = Store(tmp_path)
    wanted, good, locked, nobodys = (put(store, name) for name in (b"wanted", b"good", b"locked", b"nobodys"))
    store.write_record("shop", "other", "last-good", {"m": {"digest": digest(b"good")}})
    with store.locked(digest(b"locked"), cancelled=NEVER):
        assert store.evict(frozenset({digest(b"wanted")})) == len(b"nobodys")
    assert wanted.exists() and good.exists() and locked.exists() and not nobodys.exists()
