"""What a site remembers of versions that must not be tried again, and when it forgets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.agent import memory
from edgeward.agent.wanted import identity
from edgeward.api.assignment import Assignment, RefusedHere
from edgeward.api.common import parse
from tests.unit.fleet.objects import assignment

from .test_counters import NEW, OLD

AT, LATER = "2027-01-01T00:00:00Z", "2027-01-01T00:10:00Z"
PARAMETERS = {"threshold": 0.7}


def told(*models: dict[str, Any], avoid: list[dict[str, Any]] | None = None) -> Assignment:
    raw = assignment(models=[{"name": "m", **one} for one in models])
    return parse(Assignment, {**raw, "spec": {**raw["spec"], "avoid": avoid or []}})


def new(**more: Any) -> dict[str, Any]:
    return {"version": "2", "digest": NEW, **more}


def says(step: str = "", *, digest: str = NEW, serving: bool = False, at: str = AT, **more: Any) -> dict[str, Any]:
    refused = {"refused": {"step": step, "reason": "Odd", "message": "because", "at": at}} if step else {}
    return {"models": [{"name": "m", "version": "2", "digest": digest, "serving": serving, **refused, **more}]}


def avoided(**more: Any) -> dict[str, Any]:
    return {"identity": NEW, "version": "2", "reason": "gate errors: 0.3", "attempt": 0, "at": AT, **more}


def after(known: tuple[RefusedHere, ...], wanted: Assignment, *said: dict[str, Any], **more: Any) -> Any:
    return memory.after(known, wanted, "m", said=said, **more)


@pytest.mark.parametrize("step", memory.OF_THE_SITE)
def test_what_the_pods_refuse_by_their_checks_is_remembered_with_why(step: str) -> None:
    (one,) = after((), told(new(attempt=3)), says(step, at=LATER), says(step))
    assert (one.identity, one.scope, one.step, one.attempt, one.at) == (NEW, "Site", step, 3, AT)
    assert one.reason == "Odd: because"


@pytest.mark.parametrize("step", ["Fetch", "Verify", "Signature"])
def test_want_of_the_bytes_is_no_verdict(step: str) -> None:
    assert after((), told(new()), says(step)) == ()


def test_a_refusal_is_of_the_parameters_too() -> None:
    wanted = told(new(parameters=PARAMETERS))
    (model,) = wanted.spec.models
    assert after((), wanted, says("Golden", parameters="")) == (), "of the same bytes without parameters"
    (one,) = after((), wanted, says("Golden", parameters=identity(model).partition("+")[2]))
    assert one.identity == identity(model) != NEW and one.digest == NEW


def test_what_the_release_went_back_from_is_remembered_when_nobody_says_it_any_more() -> None:
    known = after((), told(new(digest=OLD, version="1"), avoid=[avoided()]))
    assert [(one.scope, one.identity, one.reason) for one in known] == [("Release", NEW, "gate errors: 0.3")]
    assert after(known, told(new(digest=OLD, version="1"))) == known
    assert after(known, told(new())) == known, "told again in the same attempt: nobody said retry"


def test_a_later_attempt_is_forgiven_in_both_scopes_and_an_earlier_word_does_not_bring_it_back() -> None:
    known = after((), told(new(), avoid=[avoided()]), says("Golden"))
    assert [one.scope for one in known] == ["Site", "Release"]
    again = told(new(attempt=1), avoid=[avoided()])
    assert after(known, again) == ()
    (one,) = after((), told(new(attempt=1), avoid=[avoided(attempt=1)]))
    assert one.attempt == 1


def test_a_refusal_of_the_moment_is_forgotten_once_the_pods_serve_it() -> None:
    known = after((), told(new()), says("Load"))
    assert after(known, told(new()), says(serving=True), says("Load")) == known, "one of two pods"
    assert after(known, told(new()), says(serving=True)) == ()


def test_a_gate_of_the_site_stays_whatever_the_pods_say_then() -> None:
    wanted = told(new())
    verdict = memory.refused(wanted.spec.models[0], step="Gate", reason="gate errors: 0.3", at=AT)
    known = after((), wanted, gates=[verdict])
    assert after(known, wanted, says(serving=True)) == known
    assert after(known, wanted, says("Load", at=LATER)) == known
    assert memory.fallen(known) == {NEW}


def test_a_gates_word_on_another_model_or_an_attempt_before_is_none_on_this_one() -> None:
    wanted = told(new(attempt=2), {"name": "n", "version": "5", "digest": OLD})
    mine, other = wanted.spec.models
    gate = {"step": "Gate", "reason": "gate errors: 0.3", "at": AT}
    old = memory.refused(mine, **gate).model_copy(update={"attempt": 1})
    assert after((), wanted, gates=[memory.refused(other, **gate), old]) == ()


def test_at_most_ten_a_model_the_newest() -> None:
    avoid = [
        avoided(identity=f"sha256:{number:064x}", version=str(number), at=f"2027-01-{number + 1:02}T00:00:00Z")
        for number in range(10)
    ]
    known = after((), told(new(), avoid=avoid), says("Golden", at=LATER))
    assert len(known) == memory.MOST
    assert [one.version for one in known] == ["9", "8", "7", "6", "5", "4", "3", "2", "1", "2"]
    assert after(known, told(new(), avoid=avoid), says("Golden", at=LATER)) == known, "nothing new, nothing to write"


def test_it_is_read_back_as_written_and_damage_counts_as_nothing() -> None:
    known = after((), told(new(), avoid=[avoided()]), says("Golden"))
    key = memory.key_of("shop", "m")
    body = memory.written(None, site="edge", namespace="edgeward", entries={key: known})
    assert memory.read(body, key) == known and memory.read(body, memory.key_of("shop", "other")) == ()
    assert body["metadata"]["labels"]["edgeward.dev/site"] == "edge"
    other = memory.written(body, site="edge", namespace="edgeward", entries={memory.key_of("b", "m"): known[:1]})
    assert set(other["data"]) == {"shop.m", "b.m"}
    assert set(memory.written(other, site="edge", namespace="edgeward", entries={key: ()})["data"]) == {"b.m"}
    for text in ("no json", "{}", "7", '[{"identity": 1}]', '[{"at": "never"}]'):
        assert memory.read({"data": {key: text}}, key) == ()


def test_a_status_shows_the_gate_that_took_the_site_back() -> None:
    wanted = told(new(), {"version": "1", "digest": OLD, "role": "Previous"})
    known = after((), wanted, gates=[memory.refused(wanted.spec.models[0], step="Gate", reason="gate e: 1", at=AT)])
    serving = {"name": "m", "version": "1", "digest": OLD, "serving": True, "replicas": 1, "state": "Serving"}
    kept, added = memory.with_refused([serving], wanted.spec.models, known)
    assert kept == serving
    assert (added["digest"], added["state"], added["serving"]) == (NEW, "Failed", False)
    assert added["refused"] == {"step": "Gate", "reason": "GateFailed", "message": "gate e: 1", "at": AT}
    assert memory.with_refused([added], wanted.spec.models, known) == [added]
    assert memory.with_refused([serving], wanted.spec.models, ()) == [serving]


STEPS = st.sampled_from([*memory.OF_THE_SITE, "Fetch", ""])
MOMENTS = st.integers(0, 59).map(lambda second: f"2027-01-01T00:00:{second:02}Z")
DIGESTS = st.sampled_from([f"sha256:{number:064x}" for number in range(14)])
MODELS = st.builds(lambda digest, attempt: new(digest=digest, attempt=attempt), DIGESTS, st.integers(0, 2))
AVOIDED = st.builds(
    lambda one, attempt, at: avoided(identity=one, attempt=attempt, at=at), DIGESTS, st.integers(0, 2), MOMENTS
)
SAID = st.builds(
    lambda step, digest, serving, at: says(step, digest=digest, serving=serving, at=at),
    STEPS,
    DIGESTS,
    st.booleans(),
    MOMENTS,
)
WORDS = st.tuples(
    st.lists(MODELS, max_size=1),
    st.lists(AVOIDED, max_size=10, unique_by=lambda one: one["identity"]),
    st.lists(SAID, max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, max_size=4))
def test_whatever_is_said_it_is_bounded_and_said_again_it_changes_nothing(story: list[Any]) -> None:
    """Else an idle site would write."""
    known: tuple[RefusedHere, ...] = ()
    for models, avoid, said in story:
        wanted = told(*models, avoid=avoid)
        known = after(known, wanted, *said)
        assert len(known) <= memory.MOST
        assert len({(one.scope, one.identity) for one in known}) == len(known)
        # Of more than ten, one that is displaced may come back in the hub's words; each time with a later moment.
        for _ in range(memory.MOST):
            before, known = known, after(known, wanted, *said)
            if known == before:
                break
            assert len(known) == memory.MOST
        assert known == before
        told_now = {identity(model): model.attempt for model in wanted.spec.models}
        assert all(one.attempt >= told_now.get(one.identity, 0) for one in known)
        key = memory.key_of("shop", "m")
        assert memory.read(memory.written(None, site="e", namespace="e", entries={key: known}), key) == known
