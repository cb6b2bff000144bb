"""From a plan to Assignments: make before break, nothing twice, and nothing for a job with a problem."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.api.inferencejob import InferenceJob
from edgeward.hub.publish import publish
from edgeward.rollout.step import RolloutStep, step
from tests.unit.fleet.objects import DIGEST, OTHER, ago, fleet, job, node, release

from . import world as world_module
from .world import NODES, SITES, World, plan_of

counts = st.dictionaries(st.sampled_from(sorted(SITES)), st.integers(0, 3), min_size=1)
PINNED = job(model={"name": "m", "version": "0.9"})


def test_the_first_assignment_says_all_that_the_agent_needs() -> None:
    world = World()
    (write,) = world.publish(plan_of({"a1": 2})).writes
    meta, spec = write.body["metadata"], write.body["spec"]
    assert meta["finalizers"] == ["edgeward.dev/agent"] and "resourceVersion" not in meta
    assert meta["labels"] == {
        "app.kubernetes.io/managed-by": "edgeward",
        "edgeward.dev/job": "signs",
        "edgeward.dev/job-namespace": "shop",
        "edgeward.dev/site": "a",
        "edgeward.dev/tier": "edge",
    }
    assert spec["job"] == {"namespace": "shop", "name": "signs", "uid": "uid-signs"}
    assert (spec["site"], spec["revision"]) == ("a", 1)
    assert spec["nodes"] == [{"name": "a1", "replicas": 2, "leaving": 0, "since": ago(100)}]
    assert [(item["version"], item["digest"], item["sources"]) for item in spec["models"]] == [
        ("1.0", DIGEST, ["https://models/m"])
    ]
    assert spec["effective"]["resources"]["requests"] == {"cpu": "100m", "memory": "128Mi"}
    parse(Assignment, {**write.body, "kind": "Assignment"}, strict=True)


def test_a_release_says_with_what_and_how_fast_to_fetch() -> None:
    """The Secret is the job's in the Assignment, since its pods mount it."""
    world = World()
    world.settle(plan_of({"a1": 1}))
    artifact = {"uri": "oci://registry/m", "digest": DIGEST}
    for secret, pace in (("registry", "2M"), ("other", None), (None, None)):
        world.releases = [
            release(
                artifact={**artifact, **({"pullSecret": secret} if secret else {})},
                rollout={"pace": {"concurrentDownloads": 5, **({"bandwidth": pace} if pace else {})}},
            )
        ]
        world.hub(plan_of({"a1": 1}))
        (told,) = world.assignments.values()
        assert told["spec"].get("secrets", []) == ([{"name": secret, "use": "Pull"}] if secret else [])
        assert told["spec"]["models"][0].get("downloadPace") == pace
        before = world.writes
        world.hub(plan_of({"a1": 1}))
        assert world.writes == before, "what was told is read back as it is"


def test_a_release_says_whose_signature_is_needed_and_new_keys_reach_the_sites() -> None:
    world = World()
    world.settle(plan_of({"a1": 1}))
    for keys in (["PEM"], ["PEM", "NEXT"]):
        asked = {"policy": "Require", "keys": keys}
        world.releases = [release(artifact={"uri": "https://models/m", "digest": DIGEST, "signature": asked})]
        world.hub(plan_of({"a1": 1}))
        (told,) = world.assignments.values()
        assert told["spec"]["models"][0]["signature"] == asked


def test_nothing_is_written_when_nothing_differs() -> None:
    world = World()
    world.settle(plan_of({"a1": 1, "b1": 1}))
    before = world.writes
    world.settle(plan_of({"a1": 1, "b1": 1}))
    assert world.writes == before


def test_a_move_between_sites_makes_before_it_breaks() -> None:
    world = World()
    world.settle(plan_of({"a1": 1}))
    world.hub(plan_of({"b1": 1}))
    world.agent({})
    assert (world.wanted, world.serving) == ({"a1": 1, "b1": 1}, 1)
    world.hub(plan_of({"b1": 1}))
    assert world.wanted == {"a1": 1, "b1": 1}, "the new one does not serve yet"
    world.agent({"b1": 1})
    world.hub(plan_of({"b1": 1}))
    world.agent({})
    assert (world.wanted, world.serving) == ({"b1": 1}, 1)
    world.settle(plan_of({"b1": 1}))
    assert [item["spec"]["site"] for item in world.assignments.values()] == ["b"]


def test_what_does_not_serve_is_not_waited_for() -> None:
    world = World()
    world.hub(plan_of({"a1": 1}))
    world.agent({})
    world.hub(plan_of({"b1": 1}))
    world.agent({})
    assert world.wanted == {"b1": 1}


def test_while_replicas_are_missing_nothing_that_serves_goes() -> None:
    world = World()
    world.settle(plan_of({"a1": 2}))
    world.settle(plan_of({}, missing=2, reason="NoCapacity"))
    assert world.serving == 2
    world.settle(plan_of({}))
    assert world.serving == 0 and world.assignments == {}


@settings(max_examples=40, deadline=None)
@given(
    counts,
    st.lists(
        st.tuples(counts, st.lists(st.dictionaries(st.sampled_from(sorted(SITES)), st.integers(0, 2)), max_size=4)),
        min_size=1,
        max_size=5,
    ),
)
def test_a_move_never_takes_away_a_replica_that_serves(
    first: dict[str, int], story: list[tuple[dict[str, int], list[dict[str, int]]]]
) -> None:
    """Random plans, and agents whose pods become ready late: what serves only falls when fewer are wanted."""
    world = World()
    world.settle(plan_of(first))
    for wanted, starts in story:
        floor = min(world.serving, sum(wanted.values()))
        for started in [*starts, {}]:
            world.hub(plan_of(wanted))
            world.agent(started)
            assert world.serving >= floor
    last = story[-1][0]
    world.settle(plan_of(last))
    assert world.placed() == {name: count for name, count in last.items() if count}
    assert world.serving == sum(last.values())
    assert world.wanted == world.placed(), "nothing is leaving any more"
    before = world.writes
    world.settle(plan_of(last))
    assert world.writes == before
    assert all(seen == sorted(set(seen)) for seen in world.revisions.values()), "revisions only count up"


def test_a_job_with_a_problem_changes_nothing() -> None:
    world = World()
    world.settle(plan_of({"a1": 1}))
    world.job = job(replicas=9, disconnect={"stopLocalAfter": "1h"}, resources={"requests": {"cpu": "3"}})
    assert world.publish(plan_of({"a1": 1})).writes == ()
    assert world.publish(plan_of({"a1": 1}), jobs={}).writes == (), "one that cannot be read at all"


def test_a_job_of_the_same_name_takes_over_and_only_the_uid_changes() -> None:
    world = World()
    world.settle(plan_of({"a1": 1}))
    (old,) = world.assignments.values()
    world.job = job()
    world.job["metadata"]["uid"] = "another"
    (write,) = world.publish(plan_of({"a1": 1})).writes
    assert write.name == old["metadata"]["name"]
    differs = {key for key in write.body["spec"] if write.body["spec"][key] != old["spec"].get(key)}
    assert differs == {"job", "revision"} and write.body["spec"]["job"]["uid"] == "another"


def test_one_that_is_going_is_left_to_go() -> None:
    world = World()
    world.settle(plan_of({"a1": 1}))
    for item in world.assignments.values():
        item["metadata"]["deletionTimestamp"] = ago(1)
    assert world.publish(plan_of({"a1": 1})).writes == ()


def test_a_plan_that_fits_no_assignment_keeps_back_its_own_job_alone() -> None:
    """An Assignment holds at most 1000 nodes; a site may have more."""
    world, good, bad = World(), plan_of({"a1": 1}), plan_of({"a1": 1}, key="shop/wide")
    many = tuple(replace(bad.jobs[0].placements[0], node=f"x{number}") for number in range(1001))
    whole = replace(good, jobs=(replace(bad.jobs[0], placements=many), *good.jobs))
    seen = fleet(nodes=NODES, jobs=[job("wide"), job()], releases=[release()])
    jobs = {f"shop/{name}": parse(InferenceJob, job(name)) for name in ("wide", "signs")}
    said = publish(seen, whole, step(seen), jobs=jobs, present=[], namespace="edgeward")
    assert [write.job for write in said.writes] == ["shop/signs"]
    ((key, why),) = said.failed
    assert key == "shop/wide" and "1000" in why
    assert world.publish(good).failed == ()


# Which model ---------------------------------------------------------------------------------------------------------


def told_at(world: World, site: str) -> list[str]:
    (item,) = (one for one in world.assignments.values() if one["spec"]["site"] == site)
    return [model["digest"] for model in item["spec"]["models"]]


def rolled_from_old() -> World:
    world = World(releases=[release(version="0.9", digest=OTHER)])
    world.settle(plan_of({"a1": 1}))
    assert told_at(world, "a") == [OTHER]
    return world


def test_a_site_that_comes_new_gets_the_target() -> None:
    world = rolled_from_old()
    world.releases = [release()]
    world.settle(plan_of({"a1": 1, "b1": 1}))
    assert told_at(world, "a") == told_at(world, "b") == [DIGEST]


def test_a_site_that_comes_new_while_the_release_is_paused_gets_what_the_others_have() -> None:
    world = rolled_from_old()
    world.releases = [release(paused=True)]
    world.settle(plan_of({"a1": 1, "b1": 1}))
    assert told_at(world, "a") == told_at(world, "b") == [OTHER]


def test_a_pinned_job_takes_its_version_along() -> None:
    world = rolled_from_old()
    world.job, world.releases = PINNED, [release()]
    world.settle(plan_of({"a1": 1, "b1": 1}))
    assert told_at(world, "a") == told_at(world, "b") == [OTHER]


def test_a_site_that_comes_new_after_the_release_is_deleted_gets_what_the_others_have() -> None:
    """Without, its pods would get a config without a model, which no runtime takes."""
    world = rolled_from_old()
    world.releases = []
    world.settle(plan_of({"a1": 1, "b1": 1}))
    assert told_at(world, "b") == [OTHER]


def test_a_job_that_names_another_model_gets_it_everywhere() -> None:
    """The old model's release was asked for ever: nothing was written, and Ready stayed True at the new generation."""
    world = rolled_from_old()
    world.job = job(model={"name": "other"})
    world.releases = [release(version="0.9", digest=OTHER), release("other", version="7", digest=DIGEST)]
    world.settle(plan_of({"a1": 1, "b1": 1}))
    assert told_at(world, "a") == told_at(world, "b") == [DIGEST]
    assert {model["name"] for item in world.assignments.values() for model in item["spec"]["models"]} == {"other"}


def test_what_each_further_site_costs_does_not_grow_with_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new site would begin with was looked up at every site for every site: seconds a pass with 1,000 of them."""
    asked = []
    site = RolloutStep.site
    monkeypatch.setattr(RolloutStep, "site", lambda self, *at: asked.append(at) or site(self, *at))
    names = {f"n{number}": f"s{number}" for number in range(30)}
    monkeypatch.setattr(world_module, "SITES", names)
    monkeypatch.setattr(world_module, "NODES", [node(name, edgeward_dev__site=at) for name, at in names.items()])
    world, plan = World(), plan_of(dict.fromkeys(names, 1))
    world.settle(plan)
    asked.clear()
    assert world.publish(plan).writes == ()
    assert len(asked) <= 3 * len(names)
