from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.store import Store, disk_errors
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import digest

CONTENT = os.urandom(1 << 20)
NEVER = bool  # cancelled(): False


def put(store: Store, content: bytes) -> Path:
    name = digest(content)
    with store.locked(name, cancelled=NEVER), store.partial(name) as partial:
        partial.write(content)
        return store.commit(name, partial)


def test_a_blob_is_there_after_commit_and_not_before(tmp_path):
    store = Store(tmp_path)
    name = digest(CONTENT)
    with store.locked(name, cancelled=NEVER), store.partial(name) as partial:
        partial.write(CONTENT)
        assert store.find(name) is None and not store.has(name)
        store.commit(name, partial)
    path = store.find(name)
    assert path.read_bytes() == CONTENT and store.has(name) and store.size(path) == len(CONTENT)
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: b"\0" + raw[1:], lambda raw: raw + b"x"]
)
def test_a_damaged_blob_is_dropped(tmp_path, damage):
    store = Store(tmp_path)
    path = put(store, CONTENT)
    path.chmod(0o644)
    path.write_bytes(damage(CONTENT))
    assert store.find(digest(CONTENT)) is None
    assert not path.exists()
    assert put(store, CONTENT).read_bytes() == CONTENT


def test_one_holder_of_a_lock_at_a_time(tmp_path):
    """The second one asks again and again until the first has let go, and finds what it left."""
    order: list[str] = []
    first = Store(tmp_path).locked("sha256:ab", cancelled=NEVER)

    def sleep(_seconds: float) -> None:
        order.append("waited")
        if len(order) == 3:
            first.__exit__(None, None, None)

    first.__enter__()
    with Store(tmp_path, sleep=sleep).locked("sha256:ab", cancelled=NEVER):
        assert order == ["waited"] * 3


def test_waiting_for_a_lock_can_be_given_up(tmp_path):
    other = Store(tmp_path, sleep=lambda _s: None)
    with Store(tmp_path).locked("sha256:ab", cancelled=NEVER), pytest.raises(Cancelled):
        other.locked("sha256:ab", cancelled=lambda: True).__enter__()


def test_what_is_held_is_given_back(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    path = put(store, CONTENT)
    store.hold(frozenset({digest(CONTENT)}))
    assert other.free(1) == 0
    store.hold(frozenset())
    assert other.free(1) == len(CONTENT) and not path.exists()


# Fetches its second argument into the store of its first.
FETCHER = """
import sys
from pathlib import Path
from edgeward_runtime.config import Entry
from edgeward_runtime.fetch import Limits, fetch
from edgeward_runtime.store import Store
root, digest, url = sys.argv[1:]
entry = Entry(name="m", version="1", digest=digest, sources=(url,))
print(fetch(entry, store=Store(Path(root)), limits=Limits(max_bytes=1 << 30, timeout_seconds=20, total_seconds=60),
      cancelled=bool, shunned={}).received)
"""


def start_fetcher(root: Path, name: str, url: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, str(root), name, url], env=environment, stdout=subprocess.PIPE
    )


def test_two_pods_of_a_node_download_once(tmp_path):
    name = digest(CONTENT)
    with serving() as source:
        source.files["/m.onnx"] = CONTENT
        source.chunk, source.seconds_per_chunk = 128 * 1024, 0.05
        pods = [start_fetcher(tmp_path, name, source.url("/m.onnx")) for _ in range(2)]
        fetched = sorted(int(pod.communicate(timeout=30)[0]) for pod in pods)
        assert fetched == [0, len(CONTENT)] and source.requests == ["/m.onnx"]


def test_clean_keeps_halves_and_drops_what_nobody_can_use(tmp_path):
    store, name = Store(tmp_path), digest(CONTENT)
    other = digest(b"other").removeprefix("sha256:")
    with store.partial(name) as partial:
        partial.write(CONTENT[:1000])
    for path in (f"partial/{other}.json", f"partial/.{other}.json.1.ab", f"manifests/sha256/.{other}.1.ab"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    for folder in (f"releases/sha256/.{other}.1.ab/below", f"trash/{other}.ab"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.onnx").write_text("x")
    with store.locked(digest(b"other"), cancelled=NEVER):
        Store(tmp_path).clean()
        assert (tmp_path / f"partial/{other}.json").exists(), "another pod is at it"
    Store(tmp_path).clean()
    assert [path.name for path in (tmp_path / "partial").iterdir()] == [name.removeprefix("sha256:")]
    assert not any(list((tmp_path / folder).iterdir()) for folder in ("manifests/sha256", "releases/sha256", "trash"))


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


def test_what_served_before_is_the_previous_one(tmp_path):
    store = Store(tmp_path)

    def good(**digests: str) -> dict[str, str]:
        live = {name: {"version": "1", "digest": one} for name, one in digests.items()}
        assert store.write_good("ns", "job", live)
        assert store.read_record("ns", "job", "last-good") == live
        return {name: one["digest"] for name, one in store.read_record("ns", "job", "previous").items()}

    assert good(m="a") == {}
    assert good(m="a", n="x") == {}
    assert good(m="b", n="x") == {"m": "a"}
    assert good(m="b", n="x") == {"m": "a"}, "the same again changes nothing"
    assert good(m="c", n="y") == {"m": "b", "n": "x"}
    assert good(m="c") == {"m": "b"}, "a model that is no more needs no way back"


def test_a_version_that_was_given_up_is_marked(tmp_path):
    """Forward to b, back to a, forward to b again: b is given up in between only, and a never."""
    store, seen = Store(tmp_path), []
    for one in "abab":
        store.write_good("ns", "job", {"m": {"version": "1", "digest": one}})
        before = store.read_record("ns", "job", "previous").get("m", {})
        seen.append((before.get("digest"), before.get("rolledBack", False)))
    assert seen == [(None, False), ("a", False), ("b", True), ("a", False)]


def test_a_record_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "jobs").write_text("a file where a folder should be")
    assert Store(tmp_path).write_record("ns", "job", "last-good", {}) is False


@pytest.mark.parametrize(
    ("number", "reason"),
    [(28, "DiskFull"), (122, "DiskFull"), (27, "DiskFull"), (30, "StoreUnwritable"), (13, "StoreUnwritable")],
)
def test_disk_errors_have_a_reason(number, reason):
    with pytest.raises(Refusal) as caught, disk_errors():
        raise OSError(number, os.strerror(number))
    assert caught.value.reason == reason and not caught.value.permanent


def test_locks_of_several_threads(tmp_path):
    """Many at once: each write is whole and one fetches for all."""
    results: list[Path] = []

    def one() -> None:
        store = Store(tmp_path)
        with store.locked(digest(CONTENT), cancelled=NEVER):
            results.append(store.find(digest(CONTENT)) or _write(store))

    def _write(store: Store) -> Path:
        with store.partial(digest(CONTENT)) as partial:
            assert partial.found == 0
            partial.write(CONTENT)
            return store.commit(digest(CONTENT), partial)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 6 and len(set(results)) == 1
