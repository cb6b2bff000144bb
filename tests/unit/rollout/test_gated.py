"""A release's gates: their defaults, what is asked and by whom, and what status remembers of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeward.api.assignment import Counters
from edgeward.api.common import format_time
from edgeward.api.modelrelease import Gate as AskedGate
from edgeward.api.modelrelease import ReleasedVersion, Rollout, RolloutStatus, Variant
from edgeward.fleet.model import Answer, Fleet, Job, ModelVersion, Release, ServedModel, Site, SiteModels
from edgeward.rollout import gated, looks, waved
from edgeward.rollout.model import Check, Gate, Look, Outcome, Phase, Progress
from edgeward.rollout.step import ReleaseStep, step
from edgeward.rollout.template import Unresolvable, any_of, resolved
from edgeward.rollout.variants import Grounds

V1 = ModelVersion("m", "1", f"sha256:{1:064x}", ("https://m/1",))
V2 = ModelVersion("m", "2", f"sha256:{2:064x}", ("https://m/2",))
SMALL = f"sha256:{3:064x}"
WITH_SMALL = replace(
    V2,
    variants=(
        Variant.model_validate({"match": {"tier": "fog"}, "artifact": {"uri": "https://m/small", "digest": SMALL}}),
    ),
)
FINISHED = ReleasedVersion(version="1", digest=V1.digest, sources=V1.sources, finished="2026-01-02T03:04:05Z")
ERRORS = {"name": "errors", "builtin": "ErrorRate", "max": "0.05", "interval": "10s"}


def gates(*asked: dict[str, Any]) -> tuple[AskedGate, ...]:
    return tuple(AskedGate.model_validate(one) for one in asked)


# -- words --------------------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    (gate,) = gated.machine_gates(gates({"name": "a", "query": "up", "min": "1"}))
    assert gate == Gate(name="a", query="up", min=1.0, interval=30.0, count=1, passes_needed=1, failure_limit=0)
    assert not (gate.at_hub or gate.baseline or gate.no_data_fails or gate.min_samples)


def test_the_longest_warm_up_holds_for_all() -> None:
    found = gated.machine_gates(gates(ERRORS, {**ERRORS, "name": "b", "initialDelay": "1m"}))
    assert [one.initial_delay for one in found] == [60.0, 60.0]


def test_restarts_are_counted_whatever_number_of_requests_was_asked_for() -> None:
    (gate,) = gated.machine_gates(gates({"name": "a", "builtin": "CrashLoop", "max": "0", "minSamples": 100}))
    assert gate.min_samples == 0


VALUES = {"model": "m", "version": '1"0', "site": any_of(["b", "a.c"])}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ('x{site=~"{{site}}"}', 'x{site=~"a[.]c|b"}'),
        ("x{v='{{ version }}'}", "x{v='1\\\"0'}"),
        ("x{a='b'} / {c='d'}", "x{a='b'} / {c='d'}"),
    ],
)
def test_placeholders(query: str, text: str) -> None:
    assert resolved(query, VALUES) == text


@pytest.mark.parametrize("query", ["x{a='{{shop}}'}", "{{}}", "{{ Model }}"])
def test_an_unknown_placeholder_is_named(query: str) -> None:
    with pytest.raises(Unresolvable, match="unknown placeholder"):
        resolved(query, VALUES)


def test_a_query_that_grows_too_long_is_not_asked() -> None:
    with pytest.raises(Unresolvable, match="4096"):
        resolved("{{site}}" * 9, {"site": "a" * 500})


# -- memory -------------------------------------------------------------------------------------------------------------


def test_what_status_tells_of_a_look_is_all_of_it() -> None:
    look = Look(
        gate="errors",
        variant=SMALL,
        outcome=Outcome.FAILED,
        at=1000.0,
        looks=3,
        passes=0,
        failures=1,
        value=0.25,
        baseline=0.125,
        bound="at most 0.2",
        samples=40,
        message="0.25, allowed is at most 0.2",
        query="x",
        checks=(
            Check(at=1000.0, outcome=Outcome.FAILED, value=0.25, baseline=0.125, bound="at most 0.2", samples=40),
            Check(at=990.0, outcome=Outcome.NO_DATA),
        ),
    )
    assert looks.looks(looks.statuses(Progress(looks=(look,)))) == (look,)


# -- a release ----------------------------------------------------------------------------------------------------------


class Town:
    """Sites a and b, of which b is of the tier fog; both serve the target, and their wave bakes since 1000."""

    def __init__(
        self, *asked: dict[str, Any], target: ModelVersion = V2, members: tuple[str, ...] = ("a", "b")
    ) -> None:
        self.now = 1000.0
        self.sites = [Site("a", "edge"), Site("b", "fog")]
        self.models = {"a": self._at("a", V2), "b": self._at("b", target if not target.variants else self._small())}
        self.release = Release(
            "shop",
            "m",
            target=target,
            current=V1,
            rollout=Rollout(),
            gates=gates(*asked),
            history=(FINISHED,),
            remembered=RolloutStatus(
                target=target.identity,
                phase="Baking",
                members=members,
                started=format_time(990),
                baking_since=format_time(1000),
            ),
        )
        self.answers: dict[str, Answer] = {}

    @staticmethod
    def _small() -> ModelVersion:
        return ModelVersion("m", "2", SMALL, ("https://m/small",))

    @staticmethod
    def _at(site: str, version: ModelVersion) -> SiteModels:
        served = (ServedModel(version.digest, version.version, serving=True),)
        return SiteModels("shop/signs", site, version, served, 1, 1, nodes=(f"n-{site}",))

    def report(self, site: str, *, since: float = 1000.0, **counts: Any) -> None:
        one = self.models[site]
        assert one.told is not None
        entry = Counters(digest=one.told.digest, since=format_time(since), at=format_time(self.now), **counts)
        self.models[site] = replace(one, counters=(entry,))

    def step(self) -> ReleaseStep:
        release = replace(self.release, sites=tuple(self.models.values()))
        assert release.target is not None
        jobs = (Job("shop", "signs", "u", model_name="m", model_digest=release.target.digest),)
        fleet = Fleet(now=self.now, sites=tuple(self.sites), jobs=jobs, releases=(release,), answers=dict(self.answers))
        (said,) = step(fleet).releases
        self.release = replace(
            self.release,
            remembered=said.remembered,
            looked=said.gates,
            refused=said.refused,
            history=said.history,
        )
        return said

    @property
    def phase(self) -> str:
        return self.release.remembered.phase if self.release.remembered is not None else ""


def test_gates_alone_are_asked_of_one_wave_of_all_sites() -> None:
    town = Town(ERRORS, members=())
    town.now += 10
    town.report("a", requests=50)
    assert town.step().gates[0].outcome == "Waiting", "b has not reported"
    town.report("b", requests=50)
    town.step()
    assert town.phase == "Done"


def test_a_failed_gate_names_itself_its_value_and_its_bound() -> None:
    town = Town(ERRORS)
    town.now += 10
    town.report("a", requests=50, errors=10)
    town.report("b", requests=50)
    said = town.step()
    assert said.decision is not None and said.decision.progress.why == "gate errors: 0.1, allowed is at most 0.05"
    assert town.phase == "RolledBack" and all(one.told == V1 and one.watch is None for one in said.sites)


def test_variants_are_judged_apart() -> None:
    town = Town({**ERRORS, "minSamples": 100}, target=WITH_SMALL)
    town.now += 10
    town.report("a", requests=5000)
    town.report("b", requests=120, errors=10)
    said = town.step()
    assert town.phase == "RolledBack", "pooled it would be two in a thousand"
    assert {one.variant: one.outcome for one in said.gates} == {"": "Passed", SMALL: "Failed"}
    assert said.decision is not None and SMALL[:19] in said.decision.progress.why


def test_a_site_that_is_cut_off_is_not_waited_for() -> None:
    town = Town(ERRORS)
    town.now += 10
    town.report("a", requests=50)
    town.sites[1] = replace(town.sites[1], connected=False)
    town.step()
    assert town.phase == "Done"


def test_the_looks_are_the_same_wherever_the_operator_was_ended() -> None:
    """Before or after its status was written: a report counts once."""
    asked = {**ERRORS, "count": 3}
    town = Town(asked)
    for number in range(1, 4):
        town.now += 10
        for site in "ab":
            town.report(site, requests=50 * number)
        lost = replace(town.release)
        first = town.step()
        town.release = lost
        assert town.step().gates == first.gates
        again = town.step()
        assert again.gates == first.gates and again.gates[0].looks == number
    assert town.phase == "Done"


def test_the_first_version_of_all_is_not_compared() -> None:
    town = Town({**ERRORS, "compare": "Baseline", "max": "1.1"})
    town.release = replace(town.release, history=(), current=None)
    town.step()
    assert town.phase == "Done"


def test_what_the_hub_asks_and_what_comes_of_it() -> None:
    asked = {"name": "own", "query": 'x{v="{{version}}",s=~"{{site}}"}', "evaluateAt": "Hub", "compare": "Baseline"}
    town = Town({**asked, "max": "1.5", "interval": "10s"}, members=("a",))
    town.models["b"] = Town._at("b", V1)
    said = town.step()
    new, old = said.questions
    assert (new.query, old.query) == ('x{v="2",s=~"a"}', 'x{v="1",s=~"b"}')
    assert {one.due for one in said.questions} == {1010.0}
    town.now += 11
    town.answers = {new.key: Answer(at=1011.0, value=4.0, samples=3)}
    assert town.step().gates[0].outcome == "Waiting", "half an answer is none"
    town.answers[old.key] = Answer(at=1011.0, value=2.0, samples=3)
    said = town.step()
    assert said.decision is not None and "gate own: 4, allowed is at most 3" in said.decision.progress.why
    assert said.gates[0].baseline == "2" and said.questions == ()


def test_a_prometheus_that_is_away_promotes_nothing() -> None:
    town = Town({"name": "own", "query": "x", "evaluateAt": "Hub", "max": "1", "interval": "10s"})
    for _ in range(20):
        town.now += 10
        (question,) = town.step().questions
        town.answers = {question.key: Answer(at=town.now, error="cannot be reached")}
        said = town.step()
    assert town.phase == Phase.BAKING and said.decision is not None and said.decision.no_data
    assert said.gates[0].outcome == "Error" and len(said.gates[0].checks) == 1


def test_a_site_that_answers_with_more_errors_than_a_gate_lets_pass_counts_as_unavailable() -> None:
    """Though its replicas are ready; its own requests alone count, and only as many as the gate wants to have seen."""
    town = Town({**ERRORS, "minSamples": 100})

    def available(**counts: Any) -> dict[str, bool]:
        town.report("a", requests=1000)
        town.report("b", **counts)
        assert town.release.target is not None
        release = replace(town.release, sites=tuple(town.models.values()))
        fleet = Fleet(now=town.now, sites=tuple(town.sites), releases=(release,))
        grounds = Grounds(fleet)
        known = waved.versions(release, grounds)
        facts = waved.facts(release, release.sites, fleet, known=known, grounds=grounds)
        return {one.name: one.available for one in facts.members}

    assert available(requests=200, errors=40) == {"a": True, "b": False}
    assert available(requests=200, errors=10) == {"a": True, "b": True}
    assert available(requests=99, errors=99) == {"a": True, "b": True}
    assert available(requests=200, errors=200, since=900.0) == {"a": True, "b": True}, "of a wave before"
    town.release = replace(town.release, gates=gates({**ERRORS, "compare": "Baseline"}))
    assert available(requests=200, errors=40) == {"a": True, "b": True}, "no share that one site could be held against"


def test_sites_do_not_report_while_the_rollout_is_held() -> None:
    """Nothing can come of it, and it may be held for weeks."""
    asked = {**ERRORS, "count": 9}
    town = Town(asked, {"name": "own", "query": "x", "evaluateAt": "Hub", "max": "1"})
    assert all(one.watch is not None for one in town.step().sites)
    town.release = replace(town.release, paused=True)
    said = town.step()
    assert all(one.watch is None for one in said.sites) and said.questions == ()
    town.release = replace(town.release, paused=False)
    assert all(one.watch is not None for one in town.step().sites)
    town.release = replace(town.release, command="pause@1")
    assert all(one.watch is None for one in town.step().sites)


def test_of_very_many_other_sites_some_are_compared_with() -> None:
    """2,000 sites that report every few seconds are no better a yardstick than a hundred."""
    town = Town({**ERRORS, "compare": "Baseline"}, members=("a",))
    for number in range(300):
        town.models[f"o{number}"] = Town._at(f"o{number}", V1)
        town.sites.append(Site(f"o{number}", "edge"))
    asked = [{one.site for one in town.step().sites if one.watch is not None} for _ in range(2)]
    assert asked[0] == asked[1] and len(asked[0]) == 1 + gated.MOST_OTHERS
