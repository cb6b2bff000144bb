"""Every field of every spec has exactly one row that says whether it works, and the rows do what they say."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from edgeward.api.common import parse
from edgeward.api.features import TABLE, Features, State, unavailable
from edgeward.api.inferencejob import InferenceJobSpec
from edgeward.api.modelrelease import ModelReleaseSpec
from edgeward.api.site import SiteSpec

DIGEST = "sha256:" + "a" * 64
ANY_SITE: dict[str, Any] = {"siteSelector": {"matchLabels": {"a": "b"}}}
OTHER = {"match": {"tier": "edge"}, "artifact": {"uri": "https://x/y", "digest": DIGEST}}

# A value that asks for something, for every field that does not work.
ASKING: dict[type[BaseModel], dict[str, Any]] = {
    InferenceJobSpec: {
        "spec.disconnect.stopLocalAfter": "1h",
        "spec.disconnect.reconcile": "KeepOriginal",
        "spec.overrides": [ANY_SITE],
    },
    ModelReleaseSpec: {},
    SiteSpec: {
        "spec.connection": {"mode": "Pull"},
        "spec.prometheus": {"url": "http://x"},
    },
}

# All that works, used to the full: nothing may be said about it.
WORKING: dict[type[BaseModel], dict[str, Any]] = {
    InferenceJobSpec: {
        "model": {"name": "m", "version": "1"},
        "replicas": 3,
        "replicaScope": "Total",
        "update": "Recreate",
        "scaling": {"minReplicas": 0, "maxReplicas": 3},
        "priority": {"importance": 5},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "placement": {
            "tiers": ["edge"],
            "siteSelector": {"matchLabels": {"a": "b"}},
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "spread": {"maxPerSite": 1, "minSites": 2},
            "minBandwidth": "1M",
        },
        "expose": {"type": "NodePort", "port": 8080},
        "podTemplate": {"spec": {}},
        "slo": {"latency": "80ms", "throughput": "20"},
        "data": {
            "source": ANY_SITE,
            "requestSize": "1Ki",
            "responseSize": "1Ki",
            "residency": "Region",
            "maxDrain": "10s",
        },
        "disconnect": {"lostAfter": "1m", "replace": False},
        "modelSwap": {"whenTooBig": "OffloadInGap"},
        "overrides": [],
    },
    ModelReleaseSpec: {
        "version": "1",
        "artifact": {
            "uri": "https://x/y",
            "mirrors": ["http://x/y", "file:///x", "oci://registry.example/models/a", "s3://bucket/a"],
            "digest": DIGEST,
            "pullSecret": "secret",
            "signature": {"policy": "Require", "keys": ["PEM"]},
        },
        "parameters": {"a": 1},
        "variants": [OTHER],
        "rollout": {
            "pace": {"bandwidth": "2M"},
            "activationTime": "2026-01-02T03:04:05Z",
            "windows": [{"start": "02:00", "duration": "3h"}],
        },
        "gates": [{"name": "errors", "builtin": "ErrorRate", "max": "0.1"}, {"name": "own", "query": "up", "min": "1"}],
        "rollback": {"automatic": True},
        "paused": True,
    },
    SiteSpec: {
        "nodes": "Elastic",
        "tier": "edge",
        "nodeSelector": {"a": "b"},
        "region": "eu",
        "timeZone": "Europe/Zurich",
        "windows": [{"start": "02:00", "duration": "3h"}],
        "unschedulable": True,
        "frozen": True,
        "connection": {"mode": "Local"},
        "uplink": {"bandwidth": "1M", "rtt": "10ms"},
        "cost": {"cpuHour": "1", "egressGiB": "1"},
        "power": {"wattsPerCpu": "1"},
        "quota": {"replicas": 1, "cpu": "2"},
    },
}

SPECS: list[Any] = list(TABLE)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The API model in an annotation (`X`, `X | None`, `tuple[X, ...]`), if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_of(part))), None)


def leaves(model: type[BaseModel], path: str) -> Iterator[str]:
    for field in model.model_fields.values():
        here = f"{path}.{field.alias}"
        inner = model_of(field.annotation)
        if inner is None:
            yield here
        else:
            yield from leaves(inner, here)


def covers(row: str, path: str) -> bool:
    return path == row or path.startswith(f"{row}.")


@pytest.mark.parametrize("spec", SPECS)
def test_every_field_has_exactly_one_row(spec: type[BaseModel]) -> None:
    for path in leaves(spec, "spec"):
        rows = [row.path for row in TABLE[spec] if covers(row.path, path)]
        assert len(rows) == 1, f"{path} is covered by {rows}"


@pytest.mark.parametrize("spec", SPECS)
def test_every_row_names_a_field_and_says_why(spec: type[BaseModel]) -> None:
    paths = list(leaves(spec, "spec"))
    for row in TABLE[spec]:
        assert any(covers(row.path, path) for path in paths), row.path
        assert row.why


@pytest.mark.parametrize("spec", SPECS)
def test_every_field_that_does_not_work_has_an_example(spec: type[BaseModel]) -> None:
    assert set(ASKING[spec]) == {row.path for row in TABLE[spec] if row.state is not State.WORKS}


def build(spec: Any, path: str, value: Any) -> Any:
    base: dict[str, Any] = {}
    if spec is InferenceJobSpec:
        base["model"] = {"name": "m"}
    if path.startswith("spec.artifact"):
        base["artifact"] = {"uri": "https://x/y", "digest": DIGEST}
    at = base
    *parents, last = path.split(".")[1:]
    for part in parents:
        at = at.setdefault(part, {})
    at[last] = value
    return parse(spec, base, strict=True)


@pytest.mark.parametrize(("spec", "path"), [(spec, path) for spec in SPECS for path in ASKING[spec]])
def test_a_field_that_does_not_work_is_named(spec: type[BaseModel], path: str) -> None:
    state = next(row.state for row in TABLE[spec] if row.path == path)
    found = unavailable(build(spec, path, ASKING[spec][path]))
    if state is State.PROTECTS:
        assert found == Features(protecting=(path,))
    else:
        assert found == Features(ignored=(path,))


def test_a_followed_repository_works() -> None:
    track = {"repository": "oci://x/y", "constraint": "1.x", "pullSecret": "s", "signature": {"policy": "Off"}}
    assert unavailable(parse(ModelReleaseSpec, {"track": track}, strict=True)) == Features()


@pytest.mark.parametrize("spec", SPECS)
def test_what_works_and_what_asks_for_nothing_is_passed_over(spec: Any) -> None:
    assert unavailable(parse(spec, WORKING[spec], strict=True)) == Features()


def test_a_job_at_every_site_is_not_sized() -> None:
    asked = {"model": {"name": "m"}, "scaling": {"maxReplicas": 3}, "replicaScope": "PerSite"}
    found = unavailable(parse(InferenceJobSpec, asked, strict=True))
    assert found.ignored == ("spec.scaling beside replicaScope PerSite",)


def test_what_protects_is_never_ignored() -> None:
    """The list of the design, by name: a slip here would be silent and dangerous."""
    protected = {row.path for rows in TABLE.values() for row in rows if row.state is State.PROTECTS}
    working = {row.path for rows in TABLE.values() for row in rows if row.state is State.WORKS}
    for path in (
        "spec.data.residency",
        "spec.data.maxDrain",
        "spec.disconnect.replace",
        "spec.artifact.signature",
        "spec.rollout.windows",
        "spec.quota",
        "spec.windows",
        "spec.paused",
    ):
        assert path in protected | working


def test_several_are_named_in_the_order_of_the_table() -> None:
    spec = parse(
        InferenceJobSpec,
        {
            "model": {"name": "m"},
            "overrides": [{"siteSelector": {}, "replicas": 2}],
            "disconnect": {"stopLocalAfter": "1h", "reconcile": "KeepOriginal"},
        },
    )
    assert unavailable(spec) == Features(
        protecting=("spec.disconnect.stopLocalAfter",), ignored=("spec.disconnect.reconcile", "spec.overrides")
    )
