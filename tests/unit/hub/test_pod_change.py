"""What a person sees of a change of pods: the job's conditions, its status and its Events."""

from __future__ import annotations

from typing import Any

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.api.conditions import ConditionType, Reason, find
from edgeward.api.inferencejob import InferenceJob
from edgeward.cluster.resources import INFERENCE_JOBS
from edgeward.fleet.podspec import PodSpec
from edgeward.hub import pod_change
from edgeward.hub.held import held_back
from edgeward.rollout import pods as rollout_pods
from edgeward.rollout.pods import JobPodStep
from edgeward.rollout.step import step
from tests.unit.fleet.objects import NOW, Raw, job, release

from .world import World, plan_of

AT = {"started": "2027-01-15T08:00:00Z"}
SPEC = PodSpec()


def remembers(phase: str, **more: Any) -> Raw:
    return {"target": "t1", "phase": phase, **AT, **more}


def says(said: Raw, **more: Any) -> JobPodStep:
    return JobPodStep(first=SPEC, remembered=said, **more)


def test_ready_tells_of_a_change_that_is_not_everywhere() -> None:
    assert pod_change.verdict(says(remembers("Done"))) is None
    assert pod_change.verdict(says({})) is None
    rolling = pod_change.verdict(says(remembers("Rolling"), waits_for="1 of 1 sites of wave one"))
    assert rolling is not None and (rolling.reason, "wave one" in rolling.message) == (Reason.PODS_STARTING, True)
    for held in (
        says(remembers("Rolling"), waits_for="x", paused=True),
        says(remembers("Rolling", hold="Command"), waits_for="x"),
    ):
        verdict = pod_change.verdict(held)
        assert verdict is not None and verdict.reason is Reason.PAUSED
    back = says(remembers("RolledBack", why="site a: CrashLoopBackOff"))
    verdict = pod_change.verdict(back)
    assert verdict is not None and verdict.reason is Reason.ROLLED_BACK and "CrashLoopBackOff" in verdict.message
    conditions = pod_change.condition((), back, generation=1, now=NOW)
    found = find(conditions, ConditionType.ROLLED_BACK)
    assert found is not None and found.status == "True"
    assert pod_change.condition(conditions, None, generation=1, now=NOW) == conditions, "of a job with a problem"
    assert pod_change.condition(conditions, says(remembers("Done")), generation=1, now=NOW) == ()


def told(before: Raw, after: Raw) -> list[str]:
    return [str(reason) for reason, _, _ in pod_change.events(before, after)]


def test_an_event_at_each_turn_and_none_between() -> None:
    began = remembers("Rolling", members=["a"])
    assert told({}, remembers("Done")) == []
    assert told(remembers("Done", target="t0"), began) == ["PodChangeStarted", "WaveStarted"]
    assert told(began, began) == []
    assert told(began, remembers("Rolling", wave=1, members=["b"])) == ["WavePassed", "WaveStarted"]
    assert told(began, remembers("RolledBack", why="x")) == ["RolledBack"]
    assert told(began, remembers("Done", wave=2)) == ["WavePassed", "PodChangeCompleted"]
    held = remembers("Rolling", members=["a"], hold="Command")
    assert (told(began, held), told(held, began)) == (["ReleaseHeld"], ["ReleaseResumed"])
    assert told(remembers("RolledBack"), remembers("Rolling", attempt=1, members=["a"])) == [
        "PodChangeStarted",
        "WaveStarted",
    ]


def test_a_site_whose_turn_has_not_come_keeps_its_pods_and_gets_all_the_rest() -> None:
    asked = release(rollout={"waves": [{"name": "one", "sites": {"count": 1}}, {"name": "all"}]})
    world = World(job=job(podTemplate={"spec": {"a": 1}}), releases=[asked])
    wanted = plan_of({"a1": 1, "b1": 1})

    def hub() -> JobPodStep:
        fleet = world.fleet()
        said = rollout_pods.step(fleet, step(fleet))
        published = world.publish(wanted, pods=said)
        for write in published.writes:
            world._apply(write.body)
        for item in world.assignments.values():
            item["metadata"]["generation"] = int(item["metadata"]["resourceVersion"])
        world.agent({"a1": 1, "b1": 1})
        for item in world.assignments.values():
            item["status"]["observedGeneration"] = item["metadata"]["generation"]
        found = said["shop/signs"]
        world.job["status"] = {"podRollout": dict(found.remembered)}
        return found

    def sites() -> dict[str, tuple[Any, Any, Any]]:
        return {
            item["spec"]["site"]: (
                item["spec"]["podTemplate"]["spec"]["a"],
                item["spec"]["effective"]["resources"]["requests"]["cpu"],
                item["spec"]["effective"]["slo"]["latency"] if "slo" in item["spec"]["effective"] else "",
            )
            for item in world.assignments.values()
        }

    hub()
    hub()
    assert sites() == {"a": (1, "100m", ""), "b": (1, "100m", "")}
    world.job["spec"] |= {
        "podTemplate": {"spec": {"a": 2}},
        "resources": {"requests": {"cpu": "300m"}},
        "slo": {"latency": "80ms"},
    }
    hub()
    assert sorted(sites().values()) == [(1, "100m", "80ms"), (2, "300m", "80ms")], "the SLO is no matter of the pods"
    for _ in range(3):
        hub()
    assert set(sites().values()) == {(2, "300m", "80ms")}


def test_without_a_word_on_pods_an_assignment_says_what_the_job_does() -> None:
    world = World(job=job(podTemplate={"spec": {"a": 1}}))
    (write,) = world.publish(plan_of({"a1": 1})).writes
    assert write.body["spec"]["podTemplate"] == {"spec": {"a": 1}}


def test_no_site_is_told_of_pods_that_the_job_does_not_remember_yet() -> None:
    world = World(job=job(podTemplate={"spec": {"a": 1}}))
    world.hub(plan_of({"a1": 1}))
    world.job["spec"]["podTemplate"] = {"spec": {"a": 2}}
    known = {"shop/signs": parse(InferenceJob, world.job)}
    present = [parse(Assignment, item) for item in world.assignments.values()]
    changed, moved = world.publish(plan_of({"a1": 1})), world.publish(plan_of({"a1": 1, "b1": 1}))
    unsaid = frozenset({(INFERENCE_JOBS, "shop/signs")})
    assert len(changed.writes) == 1
    assert held_back(changed, unsaid, jobs=known, present=present).writes == ()
    assert len(held_back(moved, unsaid, jobs=known, present=present).writes) == 1, "a new site has to be told something"
    assert held_back(changed, frozenset(), jobs=known, present=present) == changed
