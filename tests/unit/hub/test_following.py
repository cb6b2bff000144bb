"""What a release that follows a repository is told, wants and says: what was found, what stays, what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.api.common import parse, to_dict
from edgeward.api.modelrelease import Artifact, ModelRelease, Track, TrackedVersion, Variant, VariantMatch
from edgeward.fleet.model import Followed, Release
from edgeward.hub.release_status import release_status
from edgeward.rollout.step import step
from tests.unit.fleet.objects import NOW, Raw, fleet, release

REPOSITORY = "oci://registry/models/m"
KEYS = {"policy": "Require", "keys": ["key"]}
KEY = "shop/m"


def followed_release(constraint: str = "1.x", *, status: Raw | None = None, **spec: Any) -> Raw:
    raw = release(status=status or {})
    raw["spec"] = {"track": {"repository": REPOSITORY, "constraint": constraint, "signature": KEYS}, **spec}
    return raw


def track_of(raw: Raw) -> Track:
    found = parse(ModelRelease, raw).spec.track
    assert found is not None
    return found


def tracked(version: str, *variants: Variant, number: int = 1) -> TrackedVersion:
    artifact = Artifact(uri=REPOSITORY, digest=f"sha256:{number:064x}")
    return TrackedVersion(version=version, artifact=artifact, variants=variants, at="2026-01-01T00:00:00Z")


def seen(raw: Raw, followed: Followed | None = None) -> tuple[Release, Raw]:
    """The release in the Fleet, and its status."""
    made = fleet(releases=[raw], followed={KEY: followed} if followed else {})
    (facts,), (said,) = made.releases, step(made).releases
    problem = f"{facts.problem.reason} {facts.problem.message}" if facts.problem else ""
    return facts, to_dict(release_status(parse(ModelRelease, raw), problem, said, now=NOW))


def condition(status: Raw, kind: str) -> tuple[str, str, str]:
    found = next(one for one in status["conditions"] if one["type"] == kind)
    return found["status"], found["reason"], found.get("message", "")


def test_what_was_found_is_the_target_and_stands_in_status_and_never_in_spec() -> None:
    raw = followed_release(parameters={"t": 1})
    small = Variant(match=VariantMatch(arch="arm64"), artifact=Artifact(uri=REPOSITORY, digest=f"sha256:{9:064x}"))
    taken = tracked("1.4.0", small)
    facts, status = seen(raw, Followed(asked=track_of(raw), found=taken))
    target = facts.target
    assert target is not None
    assert (target.version, target.digest, target.sources) == ("1.4.0", taken.artifact.digest, (REPOSITORY,))
    assert (target.signature, target.parameters, target.variants) == (track_of(raw).signature, {"t": 1}, (small,))
    assert status["tracked"] == to_dict(taken)
    assert status["targetVersion"] == "1.4.0"
    assert condition(status, "Following") == ("True", "Newest", "1.4.0 is the newest of 1.x")
    # A new operator that has not looked yet goes on from status, and says the same.
    again = followed_release(status=status, parameters={"t": 1})
    facts, told = seen(again)
    assert facts.target == target
    assert told == status, "nothing to write"


def test_a_registry_that_is_away_changes_what_is_said_and_nothing_else() -> None:
    raw = followed_release(status={"tracked": to_dict(tracked("1.4.0"))})
    away = Followed(asked=track_of(raw), found=tracked("1.4.0"), problem="Unreachable: timed out")
    facts, status = seen(raw, away)
    assert facts.target is not None
    assert facts.target.version == "1.4.0"
    assert condition(status, "Ready")[1] == "NothingWanted"
    assert condition(status, "Following") == (
        "False",
        "LookFailed",
        f"{REPOSITORY}: Unreachable: timed out; 1.4.0 stays",
    )


def test_a_newer_one_that_was_not_taken_is_named() -> None:
    raw = followed_release()
    found = Followed(asked=track_of(raw), found=tracked("1.4.0"), passed_over=("1.5.0: SignatureMissing",))
    _, status = seen(raw, found)
    assert condition(status, "Following") == (
        "True",
        "PassedOver",
        "1.4.0 is the newest of 1.x; 1.5.0: SignatureMissing",
    )


@pytest.mark.parametrize(
    ("found", "reason", "text"),
    [
        (None, "WaitingForData", "PendingEvaluation: it has not been looked at yet"),
        ({"problem": "Unauthorized: answers 401"}, "FetchFailed", "Unauthorized: answers 401"),
        ({}, "FetchFailed", "NotFound: no tag matches 1.x"),
        ({"passed_over": ("1.0.0: SignatureMissing",)}, "SignatureFailed", "no version of 1.x may be taken: 1.0.0: S"),
    ],
)
def test_while_no_version_is_known_ready_says_why(found: dict[str, Any] | None, reason: str, text: str) -> None:
    raw = followed_release()
    facts, status = seen(raw, None if found is None else Followed(asked=track_of(raw), **found))
    assert facts.target is None
    assert condition(status, "Ready")[:2] == ("False", reason)
    assert text in condition(status, "Ready")[2]
    assert "tracked" not in status


@pytest.mark.parametrize(
    ("track", "path"),
    [
        ({"repository": REPOSITORY, "constraint": "newest"}, "spec.track.constraint"),
        ({"repository": "https://server/models", "constraint": "1.x"}, "spec.track.repository"),
    ],
)
def test_what_cannot_be_followed_is_an_invalid_spec(track: Raw, path: str) -> None:
    raw = release()
    raw["spec"] = {"track": track}
    facts, status = seen(raw)
    assert facts.problem is not None
    assert (facts.problem.reason, facts.problem.path) == ("InvalidSpec", path)
    assert condition(status, "Ready")[1] == "InvalidSpec"


def test_what_was_taken_for_another_question_does_not_count() -> None:
    known = {"tracked": to_dict(tracked("1.4.0"))}
    for raw in (followed_release(">=2", status=known), followed_release(status=known)):
        elsewhere = raw["spec"]["track"]["constraint"] == "1.x"
        if elsewhere:
            raw["spec"]["track"]["repository"] = "oci://elsewhere/m"
        assert seen(raw)[0].target is None
    before = followed_release("2.x")
    late = Followed(asked=track_of(before), found=tracked("2.0.0"))
    facts, _ = seen(followed_release(status=known), late)
    assert facts.target is not None
    assert facts.target.version == "1.4.0", "a look at what spec said before"


def test_variants_of_the_spec_go_before_those_of_the_repository() -> None:
    own = {"match": {"tier": "edge"}, "artifact": {"uri": REPOSITORY, "digest": f"sha256:{7:064x}"}}
    raw = followed_release(variants=[own])
    small = Variant(match=VariantMatch(arch="arm64"), artifact=Artifact(uri=REPOSITORY, digest=f"sha256:{9:064x}"))
    facts, _ = seen(raw, Followed(asked=track_of(raw), found=tracked("1.4.0", small)))
    assert facts.target is not None
    assert [one.artifact.digest for one in facts.target.variants] == [f"sha256:{7:064x}"]
    assert facts.tracked is not None
    assert facts.tracked.variants == (small,)


def test_without_track_nothing_is_said_of_it() -> None:
    _, status = seen(release())
    assert "Following" not in {one["type"] for one in status["conditions"]}
