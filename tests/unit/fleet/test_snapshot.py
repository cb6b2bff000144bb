"""Facts to JSON and back: exactly, canonically, and with a clear word when it is not a snapshot."""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.api.assignment import Counters, Histogram, QueryResult, RefusedHere
from edgeward.api.common import LabelSelector
from edgeward.api.inferencejob import Priority, Toleration
from edgeward.api.inferencejob import Resources as AskedResources
from edgeward.api.modelrelease import (
    Gate,
    GateCheck,
    GateStatus,
    RefusedVersion,
    ReleasedVersion,
    Rollout,
    RolloutStatus,
    Track,
    TrackedVersion,
    Variant,
    Window,
)
from edgeward.fleet import model, podspec
from edgeward.fleet.model import Fleet, Job, Live, Node, Resources, Sample, Site
from edgeward.fleet.snapshot import SnapshotError, decode, encode, text
from tests.unit.placement.strategies import fleets

TIME = "2026-01-02T03:04:05Z"
DATACLASSES = {
    name: kind
    for name, kind in {**vars(podspec), **vars(model)}.items()
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
}


def again(one: Fleet) -> Fleet:
    return decode(Fleet, json.loads(text(one)))


@given(fleets())
def test_a_fleet_comes_back_as_it_was(one: Fleet) -> None:
    found = again(one)
    assert text(found) == text(one)
    if "NaN" not in text(one):
        assert found == one


@pytest.mark.parametrize("name", sorted(DATACLASSES))
@settings(max_examples=20)
@given(data=st.data())
def test_every_kind_of_fact_comes_back_with_every_field(name: str, data: st.DataObject) -> None:
    """Drawn from the types alone: a field that is added is drawn here and must survive."""
    kind = DATACLASSES[name]
    one = data.draw(_of(kind))
    found = decode(kind, json.loads(text(one)))
    assert found == one
    assert text(found) == text(one)


# Of what the API itself checks, what it lets in.
EXAMPLES: dict[type, list[object]] = {
    Priority: [Priority(), Priority(importance=5, urgency=1, satisfaction=2)],
    Toleration: [Toleration(key="a", operator="Exists", effect="NoSchedule")],
    AskedResources: [AskedResources(requests={"cpu": "1"}, limits={"memory": "1Gi"})],
    Rollout: [
        Rollout(),
        Rollout.model_validate(
            {"waves": [{"name": "a", "sites": {"percent": 50}, "traffic": "5%", "bake": "1m"}], "deadline": "2h"}
        ),
    ],
    RolloutStatus: [
        RolloutStatus.model_validate({"target": "d", "phase": "Baking", "started": TIME, "bakingSince": TIME}),
        RolloutStatus.model_validate({"target": "d", "phase": "Rolling", "started": TIME, "members": ["a", "b"]}),
    ],
    Gate: [Gate(name="a", builtin="ErrorRate", max="1.05"), Gate(name="b", query="up", min="1")],
    Window: [Window(start="02:00", duration="3h"), Window(days=("Mon",), start="23:00", duration="30m")],
    Counters: [
        Counters(
            digest=f"sha256:{7:064x}",
            requests=3,
            since=TIME,
            histograms=(Histogram(name="Latency", bounds=("0.1",), counts=(1, 2), sum="0.5"),),
        )
    ],
    QueryResult: [QueryResult(name="a", at=TIME, value="1", samples=3), QueryResult(name="a", at=TIME, error="why")],
    RefusedHere: [RefusedHere(identity="d+1", digest=f"sha256:{7:064x}", scope="Site", reason="why", at=TIME)],
    GateStatus: [
        GateStatus(name="a", outcome="Waiting"),
        GateStatus(
            name="a",
            variant=f"sha256:{7:064x}",
            outcome="Failed",
            value="0.5",
            at=TIME,
            checks=(GateCheck(at=TIME, outcome="Failed", value="0.5", threshold="at most 0.1", samples=7),),
        ),
    ],
    Variant: [
        Variant.model_validate(
            {"match": {"tier": "edge"}, "artifact": {"uri": "https://m/int8", "digest": f"sha256:{8:064x}"}}
        )
    ],
    Track: [Track.model_validate({"repository": "oci://r/m", "constraint": "1.x", "pullSecret": "login"})],
    TrackedVersion: [
        TrackedVersion.model_validate(
            {"version": "1.4.0", "artifact": {"uri": "oci://r/m", "digest": f"sha256:{8:064x}"}, "at": TIME}
        )
    ],
    RefusedVersion: [RefusedVersion(version="1", identity="d", reason="why", at=TIME)],
    ReleasedVersion: [
        ReleasedVersion(
            version="1", digest=f"sha256:{7:064x}", sources=("https://m",), parameters={"a": 1}, finished=TIME
        )
    ],
}
JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2)


def _of(kind: type, within: bool = False) -> st.SearchStrategy[object]:
    """Of the kinds in a Fleet only what has no default is drawn: each is drawn in full by a test of its own, and all in all
    of them at once is more than can be drawn."""
    hints = get_type_hints(kind)
    drawn = [
        item for item in fields(kind) if not within or (item.default is MISSING and item.default_factory is MISSING)
    ]
    return st.builds(kind, **{item.name: _hint(hints[item.name], within=kind is Fleet or within) for item in drawn})


def _hint(hint: object, *, within: bool = False) -> st.SearchStrategy[object]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is object:
        return JSON
    if hint is float:
        return st.floats(allow_nan=False)
    if hint is LabelSelector:
        return st.builds(
            LabelSelector.model_validate,
            st.fixed_dictionaries({}, optional={"matchLabels": st.dictionaries(st.just("a"), st.just("b"))}),
        )
    if hint in EXAMPLES:
        return st.sampled_from(EXAMPLES[hint])  # type: ignore[index]
    if origin is UnionType:
        return st.one_of([st.none() if item is NoneType else _hint(item, within=within) for item in inner])
    if origin is tuple and inner[1] is Ellipsis:
        return st.lists(_hint(inner[0], within=within), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(_hint(item, within=within) for item in inner))
    if origin is frozenset:
        return st.frozensets(_hint(inner[0], within=within), max_size=2)
    if origin is not None:
        return st.dictionaries(st.text(max_size=3), _hint(inner[1], within=within), max_size=2)
    if hint in DATACLASSES.values():
        return _of(hint, within)  # type: ignore[arg-type]
    return st.from_type(hint)  # type: ignore[arg-type]


def test_the_same_facts_give_the_same_bytes() -> None:
    one = Node("n", "s", "edge", labels={"b": "1", "a": "2"}, models=frozenset({"x", "y", "z"}))
    other = Node("n", "s", "edge", labels={"a": "2", "b": "1"}, models=frozenset({"z", "y", "x"}))
    assert text(one) == text(other)
    assert '"labels":{"a":"2","b":"1"}' in text(one)
    assert '"models":["x","y","z"]' in text(one)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1_700_000_000.123456])
def test_floats_are_exact(value: float) -> None:
    found = decode(Sample, json.loads(text(Sample(value, value))))
    assert (found.value, math.copysign(1, found.value)) == (value, math.copysign(1, value))


def test_what_json_has_no_word_for() -> None:
    written = text(Live(cpu=Sample(math.nan, math.inf), memory=Sample(-math.inf, 0.0)))
    assert json.loads(written, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    found = decode(Live, json.loads(written))
    assert found.cpu is not None and found.memory is not None
    assert math.isnan(found.cpu.value)
    assert (found.cpu.at, found.memory.value) == (math.inf, -math.inf)


def test_a_fraction_is_exact() -> None:
    @dataclass(frozen=True)
    class Share:
        p: Fraction

    assert encode(Share(Fraction(1, 3))) == {"p": "1/3"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "fleet: unknown field colour; replay it with the version that wrote it"),
        ({"now": "soon"}, 'fleet.now: must be float, is "soon"'),
        ({"now": True}, "fleet.now: must be float, is true"),
        ({"nodes": {}}, "fleet.nodes: must be a list"),
        ({"nodes": [1]}, "fleet.nodes[0]: must be an object"),
        ({"nodes": [{"name": "a", "site": "s"}]}, "fleet.nodes[0]: field tier is missing"),
        ({"sites": [{"name": "s", "tier": "edge", "frozen": "no"}]}, 'fleet.sites[0].frozen: must be bool, is "no"'),
        ({"max_priority_tier": 4.5}, "fleet.max_priority_tier: must be int, is 4.5"),
        ({"jobs": [{"namespace": "a", "name": "b", "uid": "c", "site_selector": {"matchLabels": 1}}]}, "site_selector"),
        (
            {"nodes": [{"name": "a", "site": "s", "tier": "edge", "allocatable": {"extended": [["x"]]}}]},
            "fleet.nodes[0].allocatable.extended[0]: must have 2 entries, has 1",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(SnapshotError, match=re.escape(said)):
        decode(Fleet, {"now": 1.0, **change})


def test_a_field_that_an_older_version_did_not_have_has_its_default() -> None:
    assert decode(Site, {"name": "s", "tier": "edge"}) == Site("s", "edge")
    assert decode(Resources, {}) == Resources()


def test_selectors_come_back() -> None:
    selector = LabelSelector.model_validate(
        {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}
    )
    one = Job("n", "j", "u", site_selector=selector, source_selector=None)
    assert decode(Job, json.loads(text(one))) == one


def test_what_it_cannot_hold_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="complex"):
        text(Sample(1j, 0))  # type: ignore[arg-type]
