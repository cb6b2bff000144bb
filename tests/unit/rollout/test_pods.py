"""A change of a job's pods, pass by pass as the hub makes it: who is told which pods, and what is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgeward.api.assignment import Counters
from edgeward.api.common import format_time
from edgeward.api.inferencejob import Resources
from edgeward.api.modelrelease import Gate, Rollout, RolloutStatus, Window
from edgeward.fleet.model import Fleet, Job, ModelVersion, Problem, Release, ServedModel, Site, SiteModels
from edgeward.fleet.podspec import JobPods, PodSpec, SitePods
from edgeward.rollout import podmemory, pods
from edgeward.rollout.machine import advance
from edgeward.rollout.model import Decision, Facts, Progress
from edgeward.rollout.pods import JobPodStep
from edgeward.rollout.step import step

OLD = PodSpec(template={"spec": {"a": "old"}})
NEW = PodSpec(template={"spec": {"a": "new"}}, resources=Resources(requests={"cpu": "1"}))
THIRD = PodSpec(template={"spec": {"a": "third"}})
V1 = ModelVersion("m", "1", f"sha256:{1:064x}", ("https://m/1",))
V2 = ModelVersion("m", "2", f"sha256:{2:064x}", ("https://m/2",))
WAVES = {
    "waves": [{"name": "one", "sites": {"count": 1}, "bake": "1m", "traffic": "5%"}, {"name": "all"}],
    "maxUnavailableSites": "1",
}


class Town:
    """Sites a to d of one job. What the agents do comes by `change`; what is remembered goes through JSON, as in status."""

    def __init__(self, *, rollout: dict[str, Any] | None = WAVES, wanted: PodSpec = OLD, **release: Any) -> None:
        self.sites = {name: Site(name, "edge") for name in "abcd"}
        self.pods = {name: SitePods(site=name, told=wanted, replicas=1, ready=1, updated=True) for name in "abcd"}
        self.release: Release | None = replace(
            Release("shop", "m", target=V1, rollout=Rollout.model_validate(rollout) if rollout else None), **release
        )
        self.models = dict.fromkeys("abcd", V1)
        self.wanted = wanted
        self.remembered: dict[str, Any] = {}
        self.now = 1000.0
        self.command = ""
        self.problem: Problem | None = None
        self.counters: dict[str, tuple[Counters, ...]] = {}

    def fleet(self) -> Fleet:
        asked = JobPods(
            wanted=self.wanted,
            sites=tuple(self.pods.values()),
            remembered=self.remembered,
            command=self.command,
        )
        target = self.release.target if self.release and self.release.target else V1
        job = Job("shop", "signs", "u", model_name="m", model_digest=target.digest, pods=asked, problem=self.problem)
        releases = ()
        if self.release is not None:
            served = tuple(
                SiteModels(
                    "shop/signs",
                    name,
                    told,
                    (ServedModel(told.digest, told.version, serving=True),),
                    1,
                    1,
                    counters=self.counters.get(name, ()),
                )
                for name, told in self.models.items()
            )
            releases = (replace(self.release, sites=served),)
        return Fleet(now=self.now, sites=tuple(self.sites.values()), jobs=(job,), releases=releases)

    def step(self) -> JobPodStep:
        fleet = self.fleet()
        rolled = step(fleet)
        said = pods.step(fleet, rolled)["shop/signs"]
        self.remembered = json.loads(json.dumps(said.remembered))
        for name, told in said.told.items():
            if told.identity != self.pods[name].told.identity:
                self.pods[name] = replace(self.pods[name], told=told, updated=False)
        if self.release is not None:
            (release,) = rolled.releases
            self.release = replace(self.release, remembered=release.remembered, history=release.history)
            for one in release.sites:
                if one.told is not None:
                    self.models[one.site] = one.told
        return said

    def change(self, names: str = "abcd", *, broken: str = "") -> None:
        for name in names:
            up = name not in broken
            why = "" if up else "n1: CrashLoopBackOff: exit 1"
            self.pods[name] = replace(self.pods[name], updated=up, broken=why)

    def told(self, spec: PodSpec = NEW) -> str:
        return "".join(name for name, one in self.pods.items() if one.told.identity == spec.identity)

    def settle(self) -> JobPodStep:
        for _ in range(30):
            self.change()
            said = self.step()
            if self.phase == "Done":
                return said
            self.now += 61
        raise AssertionError(f"not done: {self.remembered}")

    def versions(self) -> set[str]:
        return {one.version for one in self.models.values()}

    @property
    def phase(self) -> str:
        return str(self.remembered.get("phase"))

    def begun(self) -> Town:
        """One whose pods are known to have finished, and now to be others."""
        self.step()
        assert self.phase == "Done"
        self.wanted = NEW
        return self


def test_what_a_job_begins_with_goes_everywhere_and_is_remembered_once_it_serves() -> None:
    town = Town()
    town.change(broken="abcd")
    assert (town.step().told["a"], town.remembered) == (OLD, {})
    town.change()
    town.step()
    memory = podmemory.recalled(town.remembered)
    assert memory is not None and memory.finished == OLD
    before = town.remembered
    town.now += 500
    town.step()
    assert town.remembered == before, "an idle minute writes nothing"


def test_by_waves_and_each_after_the_bake_of_the_one_before() -> None:
    town = Town().begun()
    said = town.step()
    first = town.told()
    assert len(first) == 1 and said.first == OLD, "a site that is new begins with what finished"
    town.now += 500
    assert "1 of 1 sites of wave one" in town.step().waits_for
    town.change()
    town.step()
    assert (town.phase, town.told()) == ("Baking", first)
    town.now += 61
    town.step()
    assert len(town.told()) == 2, "one at a time may be unavailable"
    said = town.settle()
    assert (town.told(), said.waits_for, said.first) == ("abcd", "", NEW)
    memory = podmemory.recalled(town.remembered)
    assert memory is not None and memory.finished == NEW


def test_pods_that_do_not_come_up_are_taken_back_and_not_tried_again() -> None:
    town = Town().begun()
    town.step()
    first = town.told()
    town.change(broken=first)
    town.step()
    assert town.phase == "RolledBack"
    assert (town.told(OLD), "CrashLoopBackOff" in town.remembered["why"]) == ("abcd", True)
    town.change()
    town.now += 5000
    town.step()
    assert (town.told(OLD), town.phase) == ("abcd", "RolledBack")
    town.command = "retry@1"
    town.step()
    assert len(town.told()) == 1, "somebody said so"
    town.change(broken=town.told())
    town.step()
    town.wanted = THIRD
    town.step()
    assert len(town.told(THIRD)) == 1, "another change is another matter"
    assert town.settle().told["a"] == THIRD


def test_the_way_back_is_known_when_no_site_holds_it_any_more() -> None:
    town = Town(rollout={"waves": [{"name": "all", "bake": "1m"}]}).begun()
    town.step()
    assert town.told() == "abcd"
    town.change()
    town.step()
    assert town.phase == "Baking"
    town.change(broken="abc")
    said = town.step()
    assert (town.phase, town.told(OLD), said.told["a"]) == ("RolledBack", "abcd", OLD)


def test_a_hub_that_forgot_goes_back_to_what_most_sites_run() -> None:
    town = Town().begun()
    town.remembered = {}
    town.step()
    assert len(town.told()) == 1
    town.change(broken=town.told())
    town.step()
    assert town.told(OLD) == "abcd"


def test_the_sites_of_a_large_wave_are_remembered_all_the_same() -> None:
    names = tuple(f"site-{number}" for number in range(300))
    decision = Decision(progress=Progress(target="t", members=names), told={}, stable=None, refused=())
    said = json.loads(json.dumps(podmemory.told(decision, None)))
    assert len(said["members"]) == podmemory.FIRST_FEW and podmemory.size_of_wave(said) == 300
    memory = podmemory.recalled(said, [*reversed(names), "another"])
    assert memory is not None and memory.progress.members == names
    short = podmemory.recalled(said)
    assert short is not None and short.progress.begun and short.progress.members == names[: podmemory.FIRST_FEW]


def test_what_another_version_wrote_counts_as_nothing() -> None:
    for said in ({"target": 1}, {"target": "x", "phase": "Sideways", "started": "2026-01-02T03:04:05Z"}, {"phase": {}}):
        assert podmemory.recalled(said) is None


def test_without_a_strategy_everywhere_at_once() -> None:
    town = Town(rollout=None)
    town.step()
    town.wanted = NEW
    assert (town.step().waits_for, town.told(), town.remembered) == ("", "abcd", {})


def test_a_release_that_is_gone_lets_nothing_begin() -> None:
    town = Town().begun()
    assert town.release is not None
    town.release = replace(town.release, rollout=None, target=None, problem=Problem("InvalidSpec", "x"))
    assert "nothing that can be done" in town.step().waits_for
    town.release = None
    assert "ModelRelease is missing" in town.step().waits_for
    assert (town.told(OLD), town.phase) == ("abcd", "Done")


def test_a_paused_release_holds_and_a_command_holds() -> None:
    town = Town(paused=True).begun()
    said = town.step()
    assert (said.paused, town.told(OLD)) == (True, "abcd")
    assert town.release is not None
    town.release = replace(town.release, paused=False)
    town.step()
    town.command = "pause@1"
    town.change()
    town.now += 500
    town.step()
    assert len(town.told()) == 1 and town.remembered["hold"] == "Command"
    town.command = "abort@2"
    town.step()
    assert town.told(OLD) == "abcd"


def test_outside_its_window_a_site_is_not_told() -> None:
    for rollout in (None, {"waves": [{"name": "all"}]}):
        town = Town(rollout=rollout)
        town.step()
        town.wanted = NEW
        # 1000 s after midnight of a Thursday, UTC.
        town.sites["b"] = replace(town.sites["b"], windows=(Window(start="03:00", duration="1h"),))
        town.step()
        assert town.told() == "acd"
        town.change()
        assert town.step().waits_for
        town.now = 3 * 3600.0 + 60
        assert town.step().waits_for == "" or rollout
        assert town.told() == "abcd"


def test_a_frozen_site_is_not_told() -> None:
    for rollout in (None, WAVES):
        town = Town(rollout=rollout)
        town.step()
        town.wanted = NEW
        town.sites["b"] = replace(town.sites["b"], frozen=True)
        for _ in range(12):
            town.step()
            town.change()
            town.now += 61
        assert town.told() == "acd"


def test_a_job_with_a_problem_is_left_alone() -> None:
    town = Town().begun()
    town.problem = Problem("InvalidSpec", "x")
    fleet = town.fleet()
    assert pods.step(fleet, step(fleet)) == {}


PLAIN = {"waves": [{"name": "one", "sites": {"count": 1}, "bake": "1m"}, {"name": "all"}]}
FINISHED = RolloutStatus(target=V1.digest, phase="Done", wave=2, started="2026-01-02T03:04:05Z")


def test_a_change_of_pods_waits_for_the_models_rollout() -> None:
    town = Town(rollout=PLAIN, remembered=FINISHED)
    town.step()
    assert town.release is not None
    town.release = replace(town.release, target=V2)
    town.wanted = NEW
    said = town.step()
    assert "rollout of model m" in said.waits_for, "both came at once: the model goes first"
    for _ in range(12):
        assert town.told(OLD) == "abcd"
        town.now += 61
        if town.step().waits_for != said.waits_for:
            break
    assert town.versions() == {"2"}
    assert len(town.told()) == 1, "now it is the pods' turn"


def test_the_models_rollout_waits_for_a_change_of_pods_that_has_begun() -> None:
    town = Town(rollout=PLAIN, remembered=FINISHED).begun()
    town.step()
    assert len(town.told()) == 1
    assert town.release is not None
    town.release = replace(town.release, target=V2)
    while town.phase != "Done":
        town.change()
        town.step()
        assert town.phase == "Done" or town.versions() == {"1"}
        town.now += 61
    for _ in range(12):
        town.step()
        town.now += 61
    assert town.versions() == {"2"}


GATES = (
    Gate(name="errors", builtin="ErrorRate", compare="Baseline", max="1.5", interval="30s", min_samples=10),
    Gate(name="alike", builtin="Agreement", min="0.9"),
    Gate(name="asked", query="up", max="1"),
)


class Watched(Town):
    """Each site that is watched reports what it was told to, with so many errors of 100 requests."""

    def report(self, said: JobPodStep, **errors: int) -> None:
        for name, watch in said.watch.items():
            counted = Counters(
                digest=V1.digest, requests=100, errors=errors.get(name, 1), since=watch.since, at=format_time(self.now)
            )
            self.counters[name] = (counted,)


def baking(**errors: int) -> tuple[Watched, JobPodStep]:
    town = Watched(gates=GATES)
    town.begun()
    town.step()
    town.change()
    said = town.step()
    assert (town.phase, len(town.told())) == ("Baking", 1)
    town.now += 40
    town.report(said, **{name: errors.get("new" if name in town.told() else "old", 1) for name in "abcd"})
    return town, said


def test_the_waves_sites_are_held_against_those_whose_turn_has_not_come() -> None:
    town, said = baking()
    assert set(said.watch) == set("abcd"), "the others tell what the old pods do"
    town.step()
    look = town.remembered["gates"][0]
    assert (look["name"], look["outcome"], look["baseline"], len(town.remembered["gates"])) == (
        "errors",
        "Passed",
        "0.01",
        1,
    )
    town.now += 61
    town.step()
    assert len(town.told()) == 2
    town.change()
    said = town.step()
    # Old pods that are gone are held against as they were measured last.
    for _ in range(6):
        town.change()
        town.now += 31
        town.report(said)
        said = town.step()
    assert town.phase == "Done" and said.watch == {}


def test_pods_that_answer_worse_are_taken_back() -> None:
    town, _ = baking(new=9)
    town.step()
    assert (town.phase, town.told(OLD)) == ("RolledBack", "abcd")
    assert "errors" in town.remembered["why"]


def test_no_data_is_never_a_pass() -> None:
    town, _ = baking()
    town.counters = {}
    town.now += 5000
    assert "gate errors" in town.step().waits_for
    assert len(town.told()) == 1


def test_a_gate_that_compares_is_left_out_where_nobody_is_left_to_compare_with() -> None:
    town = Watched(rollout={"waves": [{"name": "all", "bake": "1m"}]}, gates=GATES)
    town.begun()
    town.step()
    town.change()
    town.step()
    town.now += 61
    assert town.step().waits_for == ""
    assert town.phase == "Done"


def test_a_frozen_site_holds_up_nobody() -> None:
    """Whichever it is: one that was chosen for the first wave kept all others from the change, and later the model too."""
    for frozen in "abcd":
        town = Town().begun()
        town.sites[frozen] = replace(town.sites[frozen], frozen=True)
        town.settle()
        assert town.told() == "abcd".replace(frozen, "")
        town.sites[frozen] = replace(town.sites[frozen], frozen=False)
        town.step()
        assert town.told() == "abcd", "it follows once it is not frozen any more"


def test_a_change_of_pods_does_not_wait_for_the_first_version_of_all() -> None:
    """Each used to wait for the other: the model for a site that cannot run it, and what would let it for the model."""
    rolling = RolloutStatus(target=V1.digest, phase="Rolling", members=tuple("abcd"), started=format_time(990))
    town = Town(rollout=PLAIN).begun()
    assert town.release is not None
    town.release = replace(town.release, remembered=rolling, history=())
    fleet = town.fleet()
    sick = tuple(replace(one, served=()) if one.site == "d" else one for one in fleet.releases[0].sites)
    fleet = replace(fleet, releases=(replace(fleet.releases[0], sites=sick),))
    rolled = step(fleet)
    assert rolled.releases[0].remembered is not None and rolled.releases[0].remembered.phase == "Rolling"
    said = pods.step(fleet, rolled)["shop/signs"]
    assert [name for name, told in said.told.items() if told == NEW] != []


def test_a_site_whose_new_pods_fail_too_often_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = Gate.model_validate({"name": "errors", "builtin": "ErrorRate", "max": "0.05", "interval": "10s"})
    asked = {
        "waves": [{"name": "two", "sites": {"count": 2}, "bake": "1m"}, {"name": "all"}],
        "maxUnavailableSites": "1",
    }
    town = Town(rollout=asked, gates=(errors,)).begun()
    for _ in range(4):
        town.step()
        town.change()
    town.step()
    assert town.phase == "Baking"
    since = town.remembered["bakingSince"]
    town.counters = {
        name: (Counters(digest=V1.digest, since=since, at=since, requests=100, errors=50),) for name in town.told()[:1]
    }
    asked_of: list[Facts] = []
    monkeypatch.setattr(pods, "advance", lambda facts: asked_of.append(facts) or advance(facts))
    town.step()
    assert [one.name for one in asked_of[0].members if not one.available] == [town.told()[0]]
