"""A cache that ends where the cluster is, in whatever order it hears of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.cluster.cache import Cache, Lag, Store
from edgeward.cluster.resources import PODS, Object, key_of


def obj(name: str = "a", *, version: int | str, uid: str = "u1", **labels: str) -> Object:
    meta = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), "managedFields": [1]}
    return {"metadata": {**meta, "labels": labels}}


def store(**more: Any) -> Store:
    return Store(resource=PODS, **more)


def held(found: Store) -> dict[str, tuple[str, str]]:
    return {key: (item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for key, item in found.objects.items()}


# What really happened to one kind, and every way to hear of it ------------------------------------------------------


@dataclass
class Truth:
    """Objects come, change and go under growing resource versions; `log` is what a watch would say."""

    version: int = 0
    now: dict[str, Object] = field(default_factory=dict)
    log: list[tuple[str, Object]] = field(default_factory=list)

    def step(self, name: str, what: str) -> None:
        self.version += 1
        there = self.now.get(name)
        if what == "delete" and there is not None:
            gone = {"metadata": {**there["metadata"], "resourceVersion": str(self.version)}}
            del self.now[name]
            self.log.append(("DELETED", gone))
        elif what == "change":
            uid = there["metadata"]["uid"] if there else f"u{self.version}"
            self.now[name] = obj(name, version=self.version, uid=uid)
            self.log.append(("MODIFIED" if there else "ADDED", self.now[name]))


steps = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["change", "change", "delete"])), max_size=12)


def played(story: list[tuple[str, str]]) -> Truth:
    truth = Truth()
    for name, what in story:
        truth.step(name, what)
    return truth


def expected(truth: Truth) -> dict[str, tuple[str, str]]:
    return {key_of(item): (item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in truth.now.values()}


@settings(max_examples=80)
@given(steps, st.data())
def test_shuffled_and_repeated_events_converge_to_the_newest(story: list[tuple[str, str]], data: st.DataObject) -> None:
    truth, found = played(story), store()
    events = data.draw(
        st.permutations(truth.log + data.draw(st.lists(st.sampled_from(truth.log)) if truth.log else st.just([])))
    )
    for kind, item in events:
        found.event(kind, item)
    assert held(found) == expected(truth)


@settings(max_examples=80)
@given(steps, st.data())
def test_dropped_events_are_noticed_by_a_list_and_never_resurrect(
    story: list[tuple[str, str]], data: st.DataObject
) -> None:
    truth, found = played(story), store()
    heard = [event for event in truth.log if data.draw(st.booleans())]
    for kind, item in heard:
        found.event(kind, item)
    behind = found.differs(truth.now.values())
    for key in held(found).keys() | expected(truth).keys():
        assert (key in behind) == (held(found).get(key) != expected(truth).get(key))


@settings(max_examples=80)
@given(steps, steps, st.data())
def test_an_old_list_never_brings_back_what_went_nor_an_older_form(
    before: list[tuple[str, str]], after: list[tuple[str, str]], data: st.DataObject
) -> None:
    """The answer to a LIST or a write may arrive after events that are newer than it."""
    truth, found = played(before), store()
    listed, seen = list(truth.now.values()), len(truth.log)
    for name, what in after:
        truth.step(name, what)
    cut = data.draw(st.integers(0, len(truth.log)))
    for kind, item in truth.log[:cut] if cut > seen else truth.log:
        found.event(kind, item)
    found.seed(listed)
    for kind, item in truth.log[cut if cut > seen else 0 :]:
        found.event(kind, item)
    assert held(found) == expected(truth)


# By hand -------------------------------------------------------------------------------------------------------------


def test_deleted_then_an_old_answer_stays_deleted() -> None:
    found = store()
    found.event("ADDED", obj(version=1))
    found.event("DELETED", obj(version=5))
    assert not found.put(obj(version=3)) and found.all() == []
    assert found.put(obj(version=6, uid="u2"))


def test_a_late_answer_about_the_old_one_does_not_replace_its_successor() -> None:
    found = store()
    found.event("ADDED", obj(version=20, uid="new"))
    assert not found.put(obj(version=10, uid="old"))
    assert held(found) == {"n/a": ("new", "20")}


def test_a_late_deletion_of_the_old_one_leaves_its_successor_and_that_it_is_known() -> None:
    found = store()
    found.event("ADDED", obj(version=20, uid="new"))
    assert not found.event("DELETED", obj(version=15, uid="old"))
    assert held(found) == {"n/a": ("new", "20")}
    assert found.differs([]) == {"n/a"}, "the watch has delivered it, so its absence is news"


def test_what_only_our_own_list_has_seen_is_dropped_without_alarm() -> None:
    found = store()
    found.seed([obj(version=1)])
    assert found.differs([]) == set() and found.all() == []


def test_what_we_wrote_after_the_list_was_taken_is_not_dropped() -> None:
    """Dropped, the hub would not see the Assignment that it has just made, and make another elsewhere."""
    found = store()
    found.put(obj(version=12))
    assert found.differs([], at="11") == set() and len(found.all()) == 1
    assert found.differs([], at="12") == set() and found.all() == []


def test_an_object_that_is_no_longer_wanted_leaves_and_raises_no_alarm() -> None:
    """Somebody took our label off: an object that the cache keeps for ever would turn /healthz red."""
    found = store(wanted=lambda item: "ours" in item["metadata"]["labels"])
    found.event("ADDED", obj(version=1, ours="1"))
    found.event("ADDED", obj("b", version=2))
    assert list(found.objects) == ["n/a"]
    assert found.event("MODIFIED", obj(version=3))
    assert found.all() == []
    assert found.differs([obj(version=3), obj("b", version=2)]) == set()
    assert found.event("MODIFIED", obj(version=4, ours="1")) and len(found.all()) == 1


def test_objects_are_found_by_label_whatever_became_of_them() -> None:
    found = store()
    found.put(obj(version=1, job="x"))  # before anybody asks for the label
    assert [key_of(item) for item in found.labelled("job", "x")] == ["n/a"] and found.values("job") == {"x"}
    found.put(obj("b", version=2, job="x"))
    found.put(obj("c", version=3))
    assert [key_of(item) for item in found.labelled("job", "x")] == ["n/a", "n/b"]
    found.put(obj(version=4, job="x", new="1"))
    assert found.labelled("job", "x")[0]["metadata"]["labels"]["new"] == "1", "as it is now, in its old place"
    found.put(obj(version=5, job="y"))
    assert [key_of(item) for item in found.labelled("job", "x")] == ["n/b"] and found.values("job") == {"x", "y"}
    found.event("DELETED", obj("b", version=6))
    assert found.labelled("job", "x") == [] and found.values("job") == {"y"}
    found.differs([], at="9")
    assert found.labelled("job", "y") == [] and found.values("job") == set(), "gone before the watch began"


def test_changes_are_counted() -> None:
    found = store()
    found.put(obj(version=2))
    first = found.changes
    found.put(obj(version=1))
    assert found.changes == first, "nothing changed"
    found.put(obj(version=3))
    second = found.changes
    found.event("DELETED", obj(version=4))
    assert first < second < found.changes


def test_managed_fields_are_not_kept_and_nothing_given_is_changed() -> None:
    found, given_ = store(), obj(version=1)
    found.put(given_)
    assert "managedFields" not in found.objects["n/a"]["metadata"] and "managedFields" in given_["metadata"]


def test_changes_are_told_once_whether_they_came_by_watch_or_by_our_own_write() -> None:
    told: list[str] = []
    cache = Cache(changed=lambda resource, item: told.append(item["metadata"]["resourceVersion"]))
    found = cache.add(PODS)
    found.put(obj(version=1))
    found.event("ADDED", obj(version=1))
    found.event("MODIFIED", obj(version=2))
    found.event("DELETED", obj(version=3))
    found.event("DELETED", obj(version=3))
    assert told == ["1", "2", "3"]


def test_ready_means_every_kind_has_been_listed() -> None:
    cache = Cache()
    assert not cache.ready
    cache.add(PODS)
    assert not cache.ready
    cache[PODS].seed([])
    assert cache.ready


def test_a_cluster_with_a_mad_number_of_deletions_is_remembered_in_bounds() -> None:
    found = store()
    for number in range(10_050):
        found.event("DELETED", obj(f"p{number}", version=number + 1))
    assert len(found.gone) <= 10_000


def test_a_cache_that_is_ahead_of_the_cluster_is_behind_too() -> None:
    """After a restore of etcd the versions begin lower again; every event would be taken for a late one, for ever."""
    found = store()
    found.event("ADDED", obj(version=50))
    assert found.differs([obj(version=20)], at="21") == {"n/a"}
    assert found.differs([obj(version=50)], at="60") == set()


# The lag -------------------------------------------------------------------------------------------------------------


def test_lag_is_how_long_a_difference_has_lasted() -> None:
    lag = Lag(limit=60)
    lag.note("pods", {"n/a"}, now=100)
    lag.note("nodes", {"x"}, now=130)
    assert lag.worst(now=160) == 60 and not lag.dead(now=160) and lag.dead(now=160.1)
    lag.note("nodes", set(), now=140)
    lag.note("pods", {"n/a", "n/b"}, now=150)
    assert lag.worst(now=160) == 60
    lag.note("pods", {"n/b"}, now=160)
    assert lag.worst(now=160) == 10
    lag.note("pods", set(), now=170)
    assert lag.worst(now=500) == 0.0
