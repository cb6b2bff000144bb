"""Which version of a repository is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from edgeward.api.modelrelease import Artifact, Signature, TrackedVersion
from edgeward.fleet import constraint
from edgeward.registry.newest import MOST, Found, Verified, match_of, newest
from edgeward.registry.repository import Refusal

REQUIRE = Signature(policy="Require", keys=("release",))


def digest(text: str) -> str:
    return f"sha256:{text.encode().hex():0>64}"


@dataclass(frozen=True)
class Named:
    digest: str
    version: str = ""


@dataclass
class Shelf:
    """A repository. tags: tag -> what it holds; signed: what "release" has signed; broken: what answers with a reason."""

    held: dict[str, str]
    signed: set[str] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)
    checks: int = 0
    address: str = "oci://r/m"

    def tags(self) -> Sequence[str]:
        if "tags" in self.broken:
            raise refusal(self.broken["tags"])
        return list(self.held)

    def model(self, reference: str) -> Named:
        if reference in self.broken:
            raise refusal(self.broken[reference])
        return Named(digest(self.held[reference]))

    def check_signed(self, digest_: str, by: Sequence[str]) -> None:
        self.checks += 1
        if digest_ not in {digest(one) for one in self.signed} or "release" not in by:
            raise refusal("SignatureMissing")


def refusal(reason: str) -> Refusal:
    return Refusal(step="Fetch", reason=reason, message="as it is", permanent=False)


def tracked(version: str, held: str | None = None) -> TrackedVersion:
    artifact = Artifact(uri="oci://r/m", digest=digest(held or version))
    return TrackedVersion(version=version, artifact=artifact, at="2026-01-01T00:00:00Z")


def look(
    shelf: Shelf, wanted: str = "1.x", *, signature: Signature | None = None, current: TrackedVersion | None = None
) -> Found:
    return newest(shelf, constraint.parse(wanted), signature, current=current, verified=Verified())


def shelf(*tags: str, signed: str = "", **broken: str) -> Shelf:
    return Shelf(
        {tag: tag for tag in tags}, set(signed.split()), {key.replace("_", "."): why for key, why in broken.items()}
    )


def test_the_newest_that_matches() -> None:
    found = look(shelf("1.2.0", "1.10.0", "1.9.0", "2.0.0", "latest", "1.11.0-rc.1"))
    assert (found.version, found.digest, found.passed_over) == ("1.10.0", digest("1.10.0"), ())
    assert look(shelf("latest", "2.0.0")) == Found()


@pytest.mark.parametrize("odd", ["1.0.1-" + "a" * 60, "1.0.1-a-", "1.0.0_arch-" + "x" * 64])
def test_a_tag_that_no_release_can_name_is_none(odd: str) -> None:
    found = look(shelf("1.0.0", odd), ">=1.0.1-0 || 1.x")
    assert (found.version, found.variants) == ("1.0.0", ())
    tracked(found.version)


def test_a_newer_one_that_nobody_signed_is_passed_over_and_named() -> None:
    found = look(shelf("1.2.0", "1.3.0", "1.4.0", signed="1.2.0 1.3.0"), signature=REQUIRE)
    assert (found.version, found.passed_over) == ("1.3.0", ("1.4.0: SignatureMissing",))
    for policy in (None, Signature(), Signature(policy="Warn", keys=("release",))):
        assert look(shelf("1.2.0", "1.4.0", signed="1.2.0"), signature=policy).version == "1.4.0"
    none = look(shelf("1.2.0", "1.3.0"), signature=REQUIRE)
    assert (none.version, none.passed_over) == ("", ("1.3.0: SignatureMissing", "1.2.0: SignatureMissing"))


def test_what_is_no_model_is_passed_over_and_a_registry_that_breaks_ends_the_look() -> None:
    other = Shelf({"1.2.0": "a", "1.3.0": "b"}, broken={"1.3.0": "UnsupportedArtifact"})
    assert look(other).version == "1.2.0"
    for broken in ({"1.3.0": "Unreachable"}, {"tags": "Unauthorized"}):
        with pytest.raises(Refusal):
            look(Shelf({"1.2.0": "a", "1.3.0": "b"}, broken=broken))


def test_a_signature_is_checked_once_for_each_digest_and_keys() -> None:
    here, verified = shelf("1.2.0", signed="1.2.0"), Verified()
    for _ in range(3):
        newest(here, constraint.parse("*"), REQUIRE, current=None, verified=verified)
    assert here.checks == 1
    newest(
        here,
        constraint.parse("*"),
        Signature(policy="Require", keys=("release", "new")),
        current=None,
        verified=verified,
    )
    assert here.checks == 2


def test_a_tag_that_moved_is_another_digest() -> None:
    moved = Shelf({"1.2.0": "moved"})
    assert look(moved, current=tracked("1.2.0")).digest == digest("moved")


def test_a_tag_that_is_gone_takes_nothing_back() -> None:
    here = shelf("1.1.0", signed="1.1.0 1.2.0")
    found = look(here, current=tracked("1.2.0"), signature=REQUIRE)
    assert (found.version, found.digest) == ("1.2.0", digest("1.2.0"))
    assert found.passed_over == ("1.2.0: its tag is gone",)
    # But what the release's keys trust no more, or its range does not name, goes.
    assert look(shelf("1.1.0", signed="1.1.0"), current=tracked("1.2.0"), signature=REQUIRE).version == "1.1.0"
    assert look(here, "1.1.x", current=tracked("1.2.0")).version == "1.1.0"


def test_a_tag_that_moved_to_what_nobody_signed_leads_nobody_back() -> None:
    here = Shelf({"1.1.0": "1.1.0", "1.2.0": "other"}, signed={"1.1.0", "1.2.0"})
    found = look(here, current=tracked("1.2.0"), signature=REQUIRE)
    assert (found.version, found.digest, found.passed_over) == ("1.2.0", digest("1.2.0"), ("1.2.0: SignatureMissing",))


def test_the_look_is_bounded() -> None:
    many = Shelf({f"1.{number}.0": str(number) for number in range(MOST + 5)})
    found = look(many, signature=REQUIRE)
    assert (found.version, len(found.passed_over), many.checks) == ("", MOST, MOST)


def test_variants_that_were_published_beside_it() -> None:
    tags = (
        "1.4.0",
        "1.4.0_arch-arm64",
        "1.4.0_arch-arm64_tier-edge",
        "1.4.0_nightly",
        "1.3.0_tier-edge",
        "1.4.0_tier-moon",
    )
    found = look(shelf(*tags))
    assert [(dict(one.match.model_dump(exclude_none=True)), one.artifact.digest) for one in found.variants] == [
        ({"tier": "edge", "arch": "arm64"}, digest("1.4.0_arch-arm64_tier-edge")),
        ({"arch": "arm64"}, digest("1.4.0_arch-arm64")),
    ]
    half = look(shelf("1.4.0", "1.4.0_arch-arm64", signed="1.4.0"), signature=REQUIRE)
    assert (half.version, half.variants) == ("1.4.0", ())
    assert half.passed_over == ("1.4.0_arch-arm64: SignatureMissing",)


@pytest.mark.parametrize(
    "tag", ["1.4.0", "1.4.0_", "1.4.0_arch", "1.4.0_arch-", "1.4.0_arch-a_arch-b", "1.4.00_arch-a"]
)
def test_tags_that_are_no_variants(tag: str) -> None:
    assert match_of(tag, "1.4.0") is None
