from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.store import Store
from edgeward_runtime.trust import bundle, keys
from edgeward_runtime.trust.bundle import Signed
from edgeward_runtime.trust.check import Signatures
from edgeward_runtime.trust.policy import Policy

from .signing import pair

D = f"sha256:{'d' * 64}"
OTHER = f"sha256:{'e' * 64}"
MINE, STRANGER = pair(), pair("p256", "stranger")
GOOD = (keys.sign(D, MINE.private),)
FOREIGN = (keys.sign(D, STRANGER.private),)
AWAY = Refusal(step="Fetch", reason="Unreachable", message="https://a: away", permanent=False)
NONE = Refusal(step="Fetch", reason="NotFound", message="https://a.sig answers 404", permanent=False)

BROKEN = Refusal(step="Signature", reason="SignatureInvalid", message="no JSON", permanent=False)


class World:
    def __init__(self, folder: Path, *sources: tuple[Signed, ...] | Refusal) -> None:
        self.store = Store(folder)
        self.sources = sources
        self.asked = 0
        self.signatures = Signatures(saved=self.store.signature, save=self.store.put_signature, fetched=self.fetched)

    def fetched(self, _entry: Entry, *, cancelled: Callable[[], bool]) -> Iterator[tuple[Signed, ...] | Refusal]:
        for one in self.sources:
            if cancelled():
                raise Cancelled
            self.asked += 1
            yield one

    def check(self, mode: str = "Require", *, public: tuple[str, ...] = (MINE.public,), **how: Any) -> Refusal | None:
        return self.signatures.check(Entry(name="m", version="1", digest=D, signature=Policy(mode, public)), **how)

    def refused(self, **how: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.check(**how)
        assert caught.value.step == "Signature"
        warned = self.check("Warn", **how)
        assert warned is not None
        assert (warned.reason, warned.message) == (caught.value.reason, caught.value.message)
        assert self.check("Off", **how) is None
        return caught.value


def test_a_good_signature_is_kept_and_verified_again_without_any_source(tmp_path: Path) -> None:
    first = World(tmp_path, FOREIGN, GOOD, AWAY)
    assert first.check() is None
    assert first.asked == 2  # not the third
    later = World(tmp_path, AWAY)
    assert later.check() is None
    assert later.check(offline=True) is None
    assert later.asked == 0


def test_what_is_kept_counts_for_nothing_but_what_it_is(tmp_path: Path) -> None:
    World(tmp_path, GOOD).check()
    # Another key now: the sources are asked again.
    other = World(tmp_path, FOREIGN)
    assert other.check(public=(STRANGER.public,)) is None
    other.store.put_signature(D, b"broken")
    assert other.check(public=(STRANGER.public,)) is None
    assert other.asked == 2
    other.store.put_signature(D, bundle.dumps([keys.sign(OTHER, STRANGER.private)]))
    assert other.refused(public=(STRANGER.public,), offline=True).reason == "SignatureInvalid"


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ((), "SignatureMissing"),
        ((NONE,), "SignatureMissing"),
        (((),), "SignatureMissing"),
        ((NONE, AWAY), "SignatureUnreachable"),
        ((AWAY, FOREIGN, NONE), "SignatureInvalid"),
        ((AWAY, BROKEN), "SignatureInvalid"),
    ],
)
def test_the_reason_that_says_most_is_shown_and_nothing_is_kept(tmp_path: Path, sources: Any, reason: str) -> None:
    world = World(tmp_path, *sources)
    refusal = world.refused()
    assert (refusal.reason, refusal.permanent) == (reason, False)
    assert world.store.signature(D) is None


def test_a_bad_key_is_said_for_good(tmp_path: Path) -> None:
    refusal = World(tmp_path, GOOD).refused(public=("no key",))
    assert (refusal.reason, refusal.permanent) == ("BadKey", True)


def test_a_store_that_cannot_be_written_does_not_stop_what_was_verified(tmp_path: Path) -> None:
    (tmp_path / "signatures").write_text("a file where a folder should be")
    assert World(tmp_path, GOOD).check() is None


def test_a_removed_model_takes_its_signature_along(tmp_path: Path) -> None:
    world = World(tmp_path, GOOD)
    world.check()
    path = world.store.blob_path(D)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 100)
    world.store.free(50)
    assert not path.exists()
    assert world.store.signature(D) is None


def test_a_change_of_mind_ends_the_search(tmp_path: Path) -> None:
    world = World(tmp_path, AWAY, GOOD)
    with pytest.raises(Cancelled):
        world.check("Warn", cancelled=lambda: world.asked == 1)
