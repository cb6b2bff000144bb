"""What a whole fleet does over minutes: room is made for the urgent, a drained node is left first, and nothing loops."""

from __future__ import annotations

from tests.unit.fleet.objects import Raw, job, node
from tests.unit.hub.town import Town

HIGH = {"importance": 5, "urgency": 5, "satisfaction": 4}
LOW = {"importance": 1, "urgency": 1, "satisfaction": 1}


def small(name: str, cpu: str = "1", *, site: str = "") -> Raw:
    raw = node(name, edgeward_dev__site=site or f"at-{name}")
    raw["status"]["allocatable"]["cpu"] = cpu
    return raw


def wants(name: str, cpu: str = "500m", **spec: object) -> Raw:
    return job(name, **{"resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}, **spec})


def town(nodes: list[Raw], jobs: list[Raw], **changes: object) -> Town:
    named = {item["metadata"]["name"]: item for item in nodes}
    return Town(named, {item["metadata"]["name"]: item for item in jobs}, **changes)  # type: ignore[arg-type]


def full_house(**changes: object) -> Town:
    """edge-3 full of two replicas of low priority that have run for ten minutes."""
    made = town([small("edge-3")], [wants("a", "400m", priority=LOW), wants("b", "400m", priority=LOW)], **changes)
    made.run(30)
    made.run(570, every=30)
    assert made.served[-1] == {"a": 1, "b": 1}
    return made


# Preemption -------------------------------------------------------------------------------------------------------


def test_room_is_made_and_winner_and_victim_are_told() -> None:
    made = full_house()
    made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
    made.run(5)
    assert made.condition("sign-reader")["reason"] == "WaitingForPreemption"
    assert made.condition("sign-reader", "Placed")["status"] == "False"
    nomination = made.jobs["sign-reader"]["status"]["nomination"]
    assert nomination["node"] == "edge-3"
    (victim,) = (name.partition("/")[2] for name in nomination["victims"])
    assert made.condition(victim)["reason"] == "Preempted"
    assert made.condition(victim, "Placed")["status"] == "False"
    assert made.condition(victim)["message"].startswith(
        "shop/sign-reader (priority tier 5) needed 500m cpu on edge-3; "
    )
    assert made.told(victim, "Preempted") == [
        "1 replica gave way: shop/sign-reader (priority tier 5) needed 500m cpu on edge-3; 1 without a place now"
    ]
    (promise,) = made.told("sign-reader", "WaitingForPreemption")
    assert promise.startswith("nominated for edge-3 at at-edge-3 until ")
    made.run(60)
    assert made.condition("sign-reader")["reason"] == "Serving"
    assert "nomination" not in made.jobs["sign-reader"]["status"]
    assert made.condition(victim)["reason"] == "Preempted", "it still says who took its place"
    survivor = "a" if victim == "b" else "b"
    assert all(step[survivor] == 1 for step in made.served[-13:]), "the other one is not touched"


def test_after_a_preemption_an_hour_passes_without_a_write() -> None:
    made = full_house()
    made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
    made.run(120)
    before = made.writes
    made.run(3600, every=30)
    assert made.writes == before


def test_a_victim_comes_back_when_there_is_room_again() -> None:
    made = full_house()
    made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
    made.run(120)
    made.nodes["edge-3"]["status"]["allocatable"]["cpu"] = "2"
    made.run(60)
    assert made.served[-1] == {"a": 1, "b": 1, "sign-reader": 1}
    assert {made.condition(name)["reason"] for name in made.jobs} == {"Serving"}


def test_a_victim_with_a_place_elsewhere_serves_without_a_break() -> None:
    made = full_house()
    made.nodes["nook"] = small("nook", "450m")
    made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
    made.run(120)
    assert made.served[-1] == {"a": 1, "b": 1, "sign-reader": 1}
    assert all(step["a"] == step["b"] == 1 for step in made.served[-24:])
    (text,) = made.told("a", "Preempted") + made.told("b", "Preempted")
    assert text.endswith("; placed elsewhere")


def test_a_replacement_that_never_starts_holds_the_winner_up_for_a_minute_only() -> None:
    made = full_house()
    made.nodes["nook"] = small("nook", "450m")
    made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
    made.run(5)
    made.nodes["nook"]["spec"]["unschedulable"] = True  # for the scheduler of this town: its pod stays Pending
    made.run(110)
    assert made.served[-1]["sign-reader"] == 1


def test_a_leader_that_dies_between_any_two_writes_takes_no_more_than_a_calm_one() -> None:
    for dies in ({"only_first": True}, {"statuses": False}):
        made = full_house()
        made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
        made.now += 5
        made.hub(**dies)
        made.cluster()
        for _ in range(30):  # and goes on dying, once every other pass
            made.now += 5
            made.cluster()
            made.hub(**dies)
            made.hub()
            made.cluster()
        assert made.serving()["sign-reader"] == 1, dies
        assert sorted((made.serving()["a"], made.serving()["b"])) == [0, 1], dies


def test_pods_that_do_not_go_end_the_claim_and_the_next_try_waits_twice_as_long_each_time() -> None:
    made = full_house(grace=1e9)
    made.jobs["sign-reader"] = wants("sign-reader", priority=HIGH)
    made.run(4 * 3600, every=20)
    claims = made.told("sign-reader", "WaitingForPreemption")
    ended = [text for text in made.told("sign-reader", "NodeExcluded") if "NominationUnmet" in text]
    assert 6 <= len(ended) <= len(claims) <= 10, "after six it is one an hour"
    assert len(made.told("a", "Preempted")) + len(made.told("b", "Preempted")) <= len(claims)
