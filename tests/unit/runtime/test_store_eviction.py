"""What goes when room is needed, in which order, and what never does."""

from __future__ import annotations

import os
import time

import pytest

from edgeward_runtime.artifact.manifest import parse
from edgeward_runtime.errors import Refusal
from edgeward_runtime.store import Store
from edgeward_runtime.store.partial import Origin
from tests.runtime_artifacts import made
from tests.unit.runtime.onnx_models import digest
from tests.unit.runtime.test_store import NEVER, put


def names(store: Store) -> set[str]:
    folder = store.root / "blobs" / "sha256"
    return {path.read_bytes()[:1].decode() for path in folder.iterdir()}


def letter(name: str, size: int = 1000) -> bytes:
    return name.encode() * size


def good(store: Store, job: str, *contents: bytes) -> None:
    """One after the other served."""
    for content in contents:
        store.write_good("shop", job, {"m": {"version": "1", "digest": digest(content)}})


def use(store: Store, content: bytes) -> None:
    assert store.find(digest(content)) is not None


def artifact(store: Store, **files: bytes) -> str:
    built = made({f"{name}.onnx" if name == "model" else name: content for name, content in files.items()})
    manifest = parse(built.manifest, max_bytes=1 << 30)
    for content in files.values():
        put(store, content)
    with store.locked(built.digest, cancelled=NEVER):
        store.put_manifest(built.digest, built.manifest)
        store.release(built.digest, manifest)
    return built.digest


def test_the_least_recently_used_goes_first(tmp_path):
    store = Store(tmp_path)
    for name in "abcd":
        put(store, letter(name))
        use(store, letter(name))
    use(store, letter("a"))
    assert store.free(1) == 1000 and names(store) == set("acd")
    assert store.free(1500) == 2000 and names(store) == set("a")
    assert store.evicted.models == 3 and store.evicted.size == 3000


@pytest.mark.parametrize("jump", [-(10**9), 10**9])
def test_a_wrong_clock_changes_neither_the_order_nor_what_stays(tmp_path, jump, monkeypatch):
    store = Store(tmp_path)
    for name in "abcd":
        put(store, letter(name))
    good(store, "reader", letter("a"))
    for name in "bcd":
        use(store, letter(name))
    # The clock jumps by 30 years, then "b" is used: it is the last one used, whatever the time.
    now = time.time_ns() + jump * 10**9
    monkeypatch.setattr("edgeward_runtime.store.eviction.time.time_ns", lambda: now)
    use(store, letter("b"))
    monkeypatch.undo()
    use(store, letter("d"))
    assert store.free(1) == 1000 and names(store) == set("abd")
    assert store.free(1) == 1000 and names(store) == set("ad"), "b was used before d"
    assert store.free(10**9) == 1000 and names(store) == set("a"), "what serves stays"


def test_current_and_previous_of_every_job_stay(tmp_path):
    store = Store(tmp_path)
    for name in "abcdef":
        put(store, letter(name))
    good(store, "reader", letter("a"), letter("b"), letter("c"))
    good(store, "counter", letter("d"), letter("e"))
    assert store.free(10**9) == 2000 and names(store) == set("bcde")


def test_what_another_pod_fetches_or_needs_stays(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    for name in "abcd":
        put(store, letter(name))
    other.hold(frozenset({digest(letter("a"))}))
    with other.locked(digest(letter("b")), cancelled=NEVER), other.needed(frozenset({digest(letter("c"))})):
        assert store.free(10**9) == 1000
    assert names(store) == set("abc")


def test_halves_that_nobody_is_at_go_before_models(tmp_path):
    store = Store(tmp_path)
    put(store, letter("a"))
    for name in "bc":
        with store.partial(digest(letter(name))) as partial:
            partial.write(letter(name)[:500])
    with store.locked(digest(letter("b")), cancelled=NEVER):
        assert store.free(400) == 500
    assert names(store) == {"a"} and [path.name for path in (tmp_path / "partial").iterdir()] == [
        digest(letter("b")).removeprefix("sha256:")
    ]


def test_halves_of_what_is_wanted_wait_for_the_next_try(tmp_path):
    """A plain model's and an artifact's, of this pod and of others."""
    store, other = Store(tmp_path), Store(tmp_path)
    built = made({"model.onnx": letter("l")})
    store.put_manifest(built.digest, built.manifest)
    for name in "almn":
        with store.partial(digest(letter(name))) as partial:
            partial.write(letter(name)[:500])
    store.hold(frozenset({digest(letter("a")), built.digest}))
    other.hold(frozenset({digest(letter("m"))}))
    assert store.free(10**9) == 500
    left = {path.name for path in (tmp_path / "partial").iterdir()}
    assert left == {digest(letter(name)).removeprefix("sha256:") for name in "alm"}


def test_an_artifact_goes_as_a_whole_and_what_others_share_stays(tmp_path):
    store = Store(tmp_path)
    shared = letter("s")
    old = artifact(store, model=letter("o"), weights=shared)
    new = artifact(store, model=letter("n"), weights=shared)
    good(store, "reader", letter("x"))
    store.write_good("shop", "reader", {"m": {"version": "2", "digest": new}})
    assert store.free(10**9) > 1000
    assert names(store) == set("ns") and not store.has(old) and store.find(old) is None
    assert [path.name for path in (tmp_path / "releases" / "sha256").iterdir()] == [new.removeprefix("sha256:")]
    assert sorted(path.name for path in store.find(new).iterdir()) == ["model.onnx", "weights"]
    store.write_good("shop", "reader", {})
    store.free(10**9)
    assert names(store) == set() and not list((tmp_path / "releases" / "sha256").iterdir())


def test_a_plain_model_that_is_also_a_layer_stays_while_the_artifact_does(tmp_path):
    store = Store(tmp_path)
    one = artifact(store, model=letter("o"))
    store.write_good("shop", "reader", {"m": {"version": "2", "digest": one}})
    use(store, letter("o"))
    assert store.free(10**9) == 0 and names(store) == {"o"}
    store.write_good("shop", "reader", {"m": {"version": "3", "digest": digest(letter("o"))}})
    store.write_good("shop", "reader", {"m": {"version": "4", "digest": digest(letter("z"))}})
    store.free(10**9)
    assert names(store) == {"o"}, "the previous one, now by its own digest"


def test_room_within_the_quota(tmp_path):
    store = Store(tmp_path, quota=3500)
    for name in "abc":
        put(store, letter(name))
        use(store, letter(name))
    store.room({digest(b"x"): 500})
    assert names(store) == set("abc")
    store.room({digest(b"x"): 501})
    assert names(store) == set("bc")
    good(store, "reader", letter("b"), letter("c"))
    with pytest.raises(Refusal) as caught:
        store.room({digest(b"x"): 2000})
    assert caught.value.reason == "DiskFull" and not caught.value.permanent
    assert "500 more than" in caught.value.message and "shop/reader" in caught.value.message
    assert names(store) == set("bc")


def test_halves_count_with_what_is_still_to_come(tmp_path):
    store, wanted = Store(tmp_path, quota=3000), digest(letter("h", 2000))
    with store.locked(wanted, cancelled=NEVER), store.partial(wanted) as partial:
        partial.begin(Origin(total=2000))
        partial.write(letter("h", 10))
        with pytest.raises(Refusal):
            Store(tmp_path, quota=3000).room({digest(b"x"): 1001})
        store.room({wanted: 3000})  # its own half counts once
    Store(tmp_path, quota=3000).room({digest(b"x"): 1001})
    assert not list((tmp_path / "partial").iterdir()), "nobody is at it any more"


def test_a_disk_that_is_too_small_is_not_filled_to_the_brim(tmp_path):
    store = Store(tmp_path)
    told = os.statvfs(tmp_path)
    with pytest.raises(Refusal) as caught:
        store.room({digest(b"x"): told.f_blocks * told.f_frsize + 1})
    assert caught.value.reason == "DiskFull" and "disk" in caught.value.message


def test_what_came_before_its_turn_counts_and_goes_with_its_half(tmp_path):
    store = Store(tmp_path)
    wanted = digest(letter("w"))
    with store.locked(wanted, cancelled=NEVER), store.partial(wanted) as partial:
        partial.begin(Origin())
        partial.write(letter("w", 100))
        partial.islands.append(500, letter("w", 300))
    store.measure()
    assert store.used == 400
    assert store.free(1) == 400 and not list((tmp_path / "partial").iterdir())


def test_what_is_left_of_a_half_that_is_gone_is_cleaned(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "partial").mkdir(parents=True)
    (tmp_path / "partial" / f"{'0' * 64}.500").write_bytes(b"x")
    store.clean()
    assert not list((tmp_path / "partial").iterdir())
