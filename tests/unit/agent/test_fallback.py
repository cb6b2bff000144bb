"""When a site goes back by itself: by what its own runtimes counted, and no clock but the test's."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.agent import memory
from edgeward.agent.counters import Looked
from edgeward.agent.fallback import Fallbacks
from edgeward.agent.wanted import kept, without
from edgeward.api.assignment import Assignment, RefusedHere
from edgeward.api.common import parse
from tests.unit.fleet.objects import assignment

from .test_counters import NEW, OLD, a_pod, answer, counted

ERRORS = {"name": "errors", "builtin": "ErrorRate", "max": "0.1", "interval": "10s", "minSamples": 10}
CRASHES = {"name": "crashes", "builtin": "CrashLoop", "max": "2", "interval": "10s"}


def assigned(*gates: dict[str, Any], attempt: int = 0, back: str = "Previous", digest: str = NEW) -> Assignment:
    new = {"name": "m", "version": "2", "digest": digest, "attempt": attempt, "localGates": list(gates)}
    old = {"name": "m", "version": "1", "digest": OLD}
    models = [{**new, "role": "Canary"}, {**old, "role": "Stable"}]
    if back == "Previous":
        models = [{**new, "role": "Stable"}, {**old, "role": "Previous"}]
    return parse(Assignment, assignment({"name": "n1", "replicas": 1}, models=models[: 2 if back else 1]))


class Site:
    def __init__(self, *gates: dict[str, Any], **more: Any) -> None:
        self.fallbacks = Fallbacks()
        self.wanted = assigned(*gates, **more)
        self.known: tuple[RefusedHere, ...] = ()
        self.now = 1_800_000_000.0
        self.waiting: set[str] = set()

    def look(self, *pods: Looked, after: float = 10.0) -> list[str]:
        """Why it goes back at this look."""
        self.now += after
        found = self.fallbacks.look(self.wanted, pods, self.known, at=self.now, waiting=self.waiting)
        self.known = memory.after(self.known, self.wanted, "m", said=(), gates=found)
        return [one.reason for one in found]


def serving(requests: int, errors: int = 0, *, old: int = 0, old_errors: int = 0, restarts: int = 0) -> Looked:
    said = answer((OLD, counted(old, old_errors)), (NEW, counted(requests, errors)))
    return a_pod(said=said, restarts=restarts)


def loading(old: int = 0, old_errors: int = 0) -> Looked:
    return a_pod(said=answer((OLD, counted(old, old_errors))))


@pytest.mark.parametrize("back", ["Previous", "Stable"])
def test_errors_of_the_new_version_take_the_site_back_once(back: str) -> None:
    site = Site(ERRORS, back=back)
    assert site.look(loading(old=50)) == []
    assert site.look(serving(5, 4, old=50)) == [], "fewer requests than are asked for"
    assert site.look(serving(100, 4, old=50)) == []
    assert site.look(serving(200, 90, old=50)) == ["gate errors: 0.45, allowed is at most 0.1"]
    assert site.look(serving(300, 190, old=50)) == []
    assert memory.fallen(site.known) == {NEW}


def test_restarts_while_the_new_version_waits_for_its_moment_are_not_its_own() -> None:
    site = Site(CRASHES)
    site.waiting = {NEW}
    for restarts in (0, 3, 6):
        assert site.look(a_pod(said=None, restarts=restarts)) == []
    site.waiting = set()
    assert site.look(serving(0, restarts=6)) == []
    assert site.look(serving(0, restarts=7)) == []
    assert site.look(serving(0, restarts=9)) != []


def test_what_the_old_version_did_is_not_held_against_the_new_one() -> None:
    site = Site(ERRORS)
    site.look(loading(old=100, old_errors=90))
    for number in range(1, 6):
        assert site.look(serving(100 * number, old=100, old_errors=90)) == []


def test_the_warm_up_and_tolerated_failures_and_the_interval() -> None:
    site = Site({**ERRORS, "initialDelay": "60s", "failureLimit": 1})
    site.look(loading())
    assert site.look(serving(100, 100)) == []
    assert site.look(serving(200, 200), after=30) == [], "in its warm-up"
    assert site.look(serving(300, 300), after=40) == [], "a failure that is tolerated"
    assert site.look(serving(400, 400), after=3) == [], "no look is due"
    assert len(site.look(serving(500, 500), after=10)) == 1


def test_held_to_the_version_before_it_is_what_that_was_measured_at_here() -> None:
    site = Site({**ERRORS, "compare": "Baseline", "max": "2"})
    site.wanted = parse(
        Assignment, assignment({"name": "n1", "replicas": 1}, models=[{"name": "m", "version": "1", "digest": OLD}])
    )
    site.look(a_pod(said=answer((OLD, counted(0)))))
    site.look(a_pod(said=answer((OLD, counted(100, 10)))))
    site.wanted = assigned({**ERRORS, "compare": "Baseline", "max": "2"})
    assert site.look(serving(0, old=100, old_errors=10)) == []
    assert site.look(a_pod(said=answer((NEW, counted(100, 15))))) == [], "one and a half times as many"
    assert len(site.look(a_pod(said=answer((NEW, counted(200, 60)))))) == 1


def test_a_process_that_ends_again_and_again_under_the_new_version() -> None:
    site = Site(CRASHES)
    site.look(loading())
    # It is never seen to serve for long: the pod answers once in a while, then not at all.
    assert site.look(a_pod(said=answer((NEW, counted(0)), state="Loading"))) == []
    assert site.look(a_pod(said=None, restarts=1)) == []
    assert site.look(a_pod(said=None, restarts=2)) == []
    assert site.look(a_pod(said=None, restarts=3)) == ["gate crashes: 3, allowed is at most 2"]


def test_a_process_that_ended_under_the_old_version_is_not_the_new_ones_fault() -> None:
    site = Site(CRASHES)
    site.look(loading())
    for restarts in range(1, 8):
        assert site.look(a_pod(said=answer((OLD, counted(1))), restarts=restarts)) == []


def test_without_a_way_back_or_a_gate_nothing_happens() -> None:
    for site in (Site(ERRORS, back=""), Site()):
        site.look(loading())
        assert [site.look(serving(100, 100)), site.look(serving(200, 200), after=100)] == [[], []]
        assert site.fallbacks.due("signs-edge") is None


def test_a_later_attempt_is_judged_anew_by_what_comes_after_it() -> None:
    site = Site(ERRORS)
    site.look(loading())
    site.look(serving(0))
    assert len(site.look(serving(100, 100))) == 1
    site.wanted = assigned(ERRORS, attempt=1)
    site.known = memory.after(site.known, site.wanted, "m", said=())
    assert site.known == () and site.look(serving(100, 100)) == []
    assert site.look(serving(300, 105), after=30) == [], "the hundred of before do not count"
    assert len(site.look(serving(500, 305), after=30)) == 1


def test_the_next_look_is_asked_for_in_time() -> None:
    site = Site(ERRORS)
    site.look(loading())
    assert site.fallbacks.due("signs-edge") == site.now + 10
    site.look(serving(100))
    site.look(serving(200))
    assert site.fallbacks.due("signs-edge") == site.now + 10
    site.fallbacks.forget("signs-edge")
    assert site.fallbacks.due("signs-edge") is None


def test_where_it_is_not_to_judge_it_counts_all_the_same() -> None:
    """While the hub watches, only at the looks that are reported."""
    site = Site(ERRORS)
    site.look(loading())
    for number in (50, 100):
        said = serving(number, number)
        site.now += 10
        assert site.fallbacks.look(site.wanted, [said], (), at=site.now, judge=False) == []
    assert site.look(serving(100, 100)) == ["gate errors: 1, allowed is at most 0.1"]


def test_the_first_look_is_asked_for_after_the_warm_up() -> None:
    site = Site({**ERRORS, "initialDelay": "60s"})
    site.look(loading())
    site.look(serving(1))
    assert site.fallbacks.due("signs-edge") == site.now + 60


def test_the_way_back_takes_the_place_of_the_new_one_and_its_bytes_stay() -> None:
    for back in ("Previous", "Stable"):
        models = assigned(ERRORS, back=back).spec.models
        assert without(models, ()) == models
        (only,) = without(models, {NEW})
        assert (only.digest, only.role, only.local_gates) == (OLD, "Stable", ())
    assert kept(assigned(ERRORS).spec.models) == (OLD,)
    assert kept(assigned(ERRORS, back="Stable").spec.models) == ()
    alone = assigned(ERRORS, back="").spec.models
    assert without(alone, {NEW}) == alone, "nothing else could serve"


def test_where_the_hub_names_no_way_back_any_more_the_pods_keep_what_they_serve() -> None:
    """The version has finished elsewhere: this site must not begin with what it went back from."""
    signature = {"policy": "Require", "keys": ["a key"]}
    entry = {"name": "m", "version": "1", "digest": OLD, "sources": ["https://m/1"], "signature": signature}
    alone = assigned(back="").spec.models
    (only,) = without(alone, {NEW}, present=[entry])
    assert (only.version, only.digest, only.sources) == ("1", OLD, ("https://m/1",))
    assert only.signature is not None and only.signature.keys == ("a key",)
    for useless in ({**entry, "role": "Staged"}, {**entry, "name": "n"}, {**entry, "digest": NEW}, {"name": "m"}):
        assert without(alone, {NEW}, present=[useless]) == alone
    # Both that the hub names were refused here: what serves is neither.
    third = {**entry, "version": "0", "digest": "sha256:" + "c" * 64}
    (kept_on,) = without(assigned(ERRORS).spec.models, {NEW, OLD}, present=[third])
    assert kept_on.version == "0"
    (better_than_none,) = without(assigned(ERRORS).spec.models, {NEW, OLD}, present=[])
    assert better_than_none.digest == OLD
