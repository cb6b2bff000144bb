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


# Draining ---------------------------------------------------------------------------------------------------------


def two_shops(**spec: object) -> Town:
    """One replica at shop-1, and a second shop with room."""
    made = town([small("shop-1")], [wants("signs", **spec)])
    made.run(30)
    assert made.where("signs") == {"shop-1": 1}
    made.nodes["shop-2"] = small("shop-2")
    return made


def cordon(made: Town, name: str, *, off: bool = False) -> None:
    made.nodes[name]["spec"] = {} if off else {"unschedulable": True}


def test_a_cordoned_node_is_left_once_the_new_place_serves() -> None:
    made = two_shops()
    cordon(made, "shop-1")
    made.run(5)
    told = {
        n["name"]: (n["replicas"], n.get("leaving", 0)) for a in made.assignments.values() for n in a["spec"]["nodes"]
    }
    assert told == {"shop-1": (0, 1), "shop-2": (1, 0)}
    made.run(40)
    assert made.where("signs") == {"shop-2": 1}
    assert all(step["signs"] >= 1 for step in made.served[-9:]), "at no moment was there none"
    assert not [item for item in made.pods if item.node == "shop-1"]


def test_uncordoning_brings_nothing_back() -> None:
    made = two_shops()
    cordon(made, "shop-1")
    made.run(60)
    cordon(made, "shop-1", off=True)
    before = made.writes
    made.run(600, every=20)
    assert (made.where("signs"), made.writes) == ({"shop-2": 1}, before)


def test_uncordoning_halfway_ends_the_move_that_was_begun_and_no_more() -> None:
    made = two_shops()
    cordon(made, "shop-1")
    made.run(5)
    cordon(made, "shop-1", off=True)
    made.run(600, every=10)
    assert made.where("signs") == {"shop-2": 1}


def test_with_no_other_place_it_stays_and_says_so() -> None:
    made = two_shops(placement={"siteSelector": {"matchLabels": {"edgeward.dev/site": "at-shop-1"}}})
    cordon(made, "shop-1")
    made.run(30)
    ready = made.condition("signs")
    assert (ready["status"], ready["reason"]) == ("True", "Serving")
    assert "1 replica stays where it should not be for want of another node" in ready["message"]
    assert "1 NodeUnschedulable" in ready["message"]
    before = made.writes
    made.run(600, every=20)
    assert (made.where("signs"), made.writes) == ({"shop-1": 1}, before)
    cordon(made, "shop-1", off=True)
    made.run(10)
    assert made.condition("signs")["message"] == "1/1 replicas at 1/1 sites"


def test_a_drain_of_many_jobs_spreads_over_what_is_left() -> None:
    made = town([small("old", "8")], [wants(f"j{number}", "100m") for number in range(30)])
    made.run(30)
    assert made.served[-1].total() == 30
    for name in ("x", "y", "z"):
        made.nodes[name] = small(name, "8")
    cordon(made, "old")
    made.run(60)
    share = {name: sum(made.where(f"j{number}").get(name, 0) for number in range(30)) for name in made.nodes}
    assert share["old"] == 0
    assert all(9 <= share[name] <= 11 for name in ("x", "y", "z")), share
    assert all(step.total() >= 30 for step in made.served[-12:])


# Moves ------------------------------------------------------------------------------------------------------------


def test_a_move_for_a_better_score_is_remembered_in_the_assignment() -> None:
    made = town([small("shop-1", "4"), small("shop-2", "4")], [wants("signs")])
    made.used["shop-2"] = 1.0
    made.run(30)
    assert made.where("signs") == {"shop-1": 1}
    made.used |= {"shop-1": 3.9, "shop-2": 0.2}
    made.run(900, every=15)
    assert made.where("signs") == {"shop-2": 1}
    (held,) = (node for item in made.assignments.values() for node in item["spec"].get("nodes") or [])
    assert (held["name"], held["movedFrom"]) == ("shop-2", "at-shop-1")
    (placed,) = made.fleet().jobs[0].placed
    assert placed.moved_from == "at-shop-1"
    assert all(step["signs"] >= 1 for step in made.served[-60:])
