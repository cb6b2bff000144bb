"""Objects survive the way from the wire and back, and what is wrong is named by its path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from edgeward.api.assignment import Assignment, AssignmentSpec
from edgeward.api.common import (
    ApiError,
    Condition,
    LabelSelector,
    ObjectMeta,
    format_time,
    parse,
    parse_time,
    to_dict,
)
from edgeward.api.inferencejob import InferenceJob, Toleration
from edgeward.api.modelrelease import ModelRelease, ModelReleaseSpec
from edgeward.api.objects import ASSIGNMENTS, INFERENCE_JOBS, KINDS, MODELS, parse_object
from edgeward.api.site import Site
from edgeward.api.sitereport import SiteReport

SAMPLES = ("InferenceJob", "ModelRelease", "Site", "SiteReport", "Assignment")
FOLDER = Path(__file__).with_name("samples")


def load(kind: str) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((FOLDER / f"{kind.lower()}.yaml").read_text("utf-8"))
    return raw


def contains(whole: Any, part: Any) -> bool:
    """Whether every value of `part` is in `whole`; defaults may have been added."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(contains(a, b) for a, b in zip(whole, part, strict=True))
    return bool(whole == part)


@pytest.mark.parametrize("kind", SAMPLES)
def test_round_trip_loses_nothing(kind: str) -> None:
    raw = load(kind)
    thing = parse_object(raw, strict=True)
    wire = to_dict(thing)
    assert contains(wire, raw)
    assert parse_object(wire, strict=True) == thing


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The API model in an annotation (`X`, `X | None`, `tuple[X, ...]`), if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_of(part))), None)


def unset(model: type[BaseModel], values: list[Any], path: str) -> Iterator[str]:
    """Paths of the fields that none of the raw values sets."""
    for field in model.model_fields.values():
        found = [value[field.alias] for value in values if field.alias in value]
        here = f"{path}.{field.alias}"
        inner = model_of(field.annotation)
        if not found:
            yield here
        elif inner is not None:
            flat = [item for value in found for item in (value if isinstance(value, list) else [value])]
            yield from unset(inner, flat, here)


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_set_every_field(kind: str) -> None:
    """Else a new field would have no round trip, neither here nor at the API server."""
    exclusive = {".spec.model.digest", ".spec.track"}
    model = next(model for model in MODELS if model.info.kind == kind)
    raw = load(kind)
    for part in ("spec", "status") if model.info.status else ("spec",):
        inner = model_of(model.model_fields[part].annotation)
        assert inner is not None
        assert set(unset(inner, [raw[part]], f".{part}")) <= exclusive


def test_a_full_spec_gains_nothing() -> None:
    """A spec in which every field is set comes back as it was: nothing is invented on the way."""
    raw = load("InferenceJob")
    assert to_dict(parse(InferenceJob, raw).spec) == raw["spec"]


def test_a_job_needs_only_a_model() -> None:
    job = parse(InferenceJob, {"metadata": {"name": "a"}, "spec": {"model": {"name": "m"}}})
    assert job.spec.replicas == 1
    assert (job.spec.priority.importance, job.spec.priority.urgency, job.spec.priority.satisfaction) == (3, 3, 3)
    assert (job.spec.expose.type, job.spec.expose.port) == ("ClusterIP", 80)
    assert job.spec.disconnect.replace
    assert job.spec.placement.tiers == ()
    assert job.status.conditions == ()
    assert job.created == 0.0


def test_objects_cannot_change_under_a_decision() -> None:
    job = parse(InferenceJob, {"spec": {"model": {"name": "m"}}})
    with pytest.raises(ValidationError):
        job.spec.replicas = 2  # type: ignore[misc]


def test_unknown_fields_are_dropped_or_in_strict_mode_named() -> None:
    raw = {"metadata": {"name": "a"}, "spec": {"model": {"name": "m", "vesion": "1"}, "tpyo": 1}}
    assert parse(InferenceJob, raw).spec.model.name == "m"
    with pytest.raises(ApiError) as caught:
        parse(InferenceJob, raw, strict=True)
    assert caught.value.problems == (("spec.model.vesion", "unknown field"), ("spec.tpyo", "unknown field"))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"replicas": "3"}, "spec.replicas"),
        ({"replicas": True}, "spec.replicas"),
        ({"disconnect": {"replace": "yes"}}, "spec.disconnect.replace"),
        ({"placement": {"tiers": "edge"}}, "spec.placement.tiers"),
    ],
)
def test_strict_mode_takes_types_as_the_server_does(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(InferenceJob, {"spec": {"model": {"name": "m"}, **spec}}, strict=True)
    assert caught.value.problems[0][0] == path


def test_strict_mode_reads_what_yaml_makes_of_numbers_and_times() -> None:
    text = "{version: '1', rollout: {activationTime: 2026-01-02T03:04:05Z, pace: {bandwidth: 1000000}}}"
    spec = parse(ModelReleaseSpec, yaml.safe_load(text), strict=True)
    assert spec.rollout is not None and spec.rollout.pace is not None and spec.rollout.activation_time is not None
    assert parse_time(spec.rollout.activation_time) == 1767323045.0
    assert spec.rollout.pace.bandwidth == "1000000"


def test_strict_mode_leaves_opaque_parts_alone() -> None:
    job = parse(InferenceJob, {"spec": {"model": {"name": "m"}, "podTemplate": {"any": {"thing": [1]}}}}, strict=True)
    assert job.spec.pod_template == {"any": {"thing": [1]}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, "spec.model"),
        ({"model": {}}, "spec.model.name"),
        ({"model": {"name": "m"}, "replicas": -1}, "spec.replicas"),
        ({"model": {"name": "m"}, "replicas": "many"}, "spec.replicas"),
        ({"model": {"name": "m"}, "resources": {"requests": {"cpu": "2x"}}}, "spec.resources.requests.cpu"),
        ({"model": {"name": "m"}, "resources": {"requests": {"cpu": True}}}, "spec.resources.requests.cpu"),
        ({"model": {"name": "m"}, "slo": {"latency": "80"}}, "spec.slo.latency"),
        ({"model": {"name": "m"}, "placement": {"tiers": ["moon"]}}, "spec.placement.tiers[0]"),
        ({"model": {"name": "m"}, "placement": {"minBandwidth": "1MB"}}, "spec.placement.minBandwidth"),
        ({"model": "m"}, "spec.model"),
        ([], "spec"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(spec: Any, path: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(InferenceJob, {"metadata": {"name": "bad"}, "spec": spec})
    assert caught.value.problems[0][0] == path
    assert str(caught.value).startswith(f"InferenceJob bad: {path}: ")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "name", "replicas", "resources", "requests", "placement", "tiers", "data", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_rubbish_is_read_or_refused_and_nothing_else(spec: Any) -> None:
    try:
        parse(InferenceJob, {"metadata": {"name": "a"}, "spec": spec})
    except ApiError as error:
        assert error.problems


def test_null_means_not_set() -> None:
    raw = {"metadata": {"name": "a", "labels": None}, "spec": {"model": {"name": "m"}, "replicas": None, "data": None}}
    job = parse(InferenceJob, {**raw, "status": None})
    assert job.spec.replicas == 1
    assert job.metadata.labels == {}


def test_objects_of_another_group_or_kind_are_refused() -> None:
    for raw, path in (({"apiVersion": "v1", "kind": "Site"}, "apiVersion"), (load("Site") | {"kind": "Pod"}, "kind")):
        with pytest.raises(ApiError) as caught:
            parse_object(raw)
        assert caught.value.problems[0][0] == path


def test_kinds_by_name() -> None:
    assert set(KINDS) == {model.info.kind for model in MODELS}
    assert (INFERENCE_JOBS, ASSIGNMENTS) == ("inferencejobs", "assignments")
    assert KINDS["Site"].crd_name == "sites.edgeward.dev"
    assert [kind for kind, info in KINDS.items() if not info.namespaced] == ["Site"]
    for model in (InferenceJob, ModelRelease, Site, SiteReport, Assignment):
        assert model.model_fields["kind"].default == model.info.kind


def test_seconds_of_a_model_may_be_measured_as_a_float() -> None:
    raw = load("Assignment")
    raw["status"]["models"][0]["seconds"] = 0.8125
    assert parse(Assignment, raw).status.models[0].seconds == "0.8125"


def test_effective_defaults_are_those_of_a_job() -> None:
    spec = parse(AssignmentSpec, {"job": {"namespace": "shop", "name": "a"}, "site": "north", "revision": 1})
    job = parse(InferenceJob, {"spec": {"model": {"name": "m"}}})
    for name in type(spec.effective).model_fields:
        assert getattr(spec.effective, name) == getattr(job.spec, name), name


def selector(**fields: Any) -> LabelSelector:
    return parse(LabelSelector, fields)


def test_label_selectors_mean_what_kubernetes_means() -> None:
    labels = {"region": "north", "tier": "edge"}
    assert selector().matches({})
    assert selector(matchLabels={"region": "north"}).matches(labels)
    assert not selector(matchLabels={"region": "south"}).matches(labels)
    cases = [
        ("region", "In", ["north", "south"], True),
        ("region", "In", ["south"], False),
        ("absent", "In", ["x"], False),
        ("region", "NotIn", ["south"], True),
        ("region", "NotIn", ["north"], False),
        ("absent", "NotIn", ["x"], True),
        ("region", "Exists", [], True),
        ("absent", "Exists", [], False),
        ("region", "DoesNotExist", [], False),
        ("absent", "DoesNotExist", [], True),
    ]
    for key, operator, values, holds in cases:
        one = selector(matchExpressions=[{"key": key, "operator": operator, "values": values}])
        assert one.matches(labels) is holds, (key, operator, values)


def test_tolerations_mean_what_the_scheduler_means() -> None:
    def tolerates(**fields: Any) -> bool:
        return parse(Toleration, fields).tolerates(key="gpu", value="a100", effect="NoSchedule")

    assert tolerates(operator="Exists")
    assert tolerates(key="gpu", operator="Exists")
    assert tolerates(key="gpu", value="a100")
    assert tolerates(key="gpu", operator="Equal", value="a100", effect="NoSchedule")
    assert not tolerates(key="gpu", value="h100")
    assert not tolerates(key="tpu", operator="Exists")
    assert not tolerates(key="gpu", operator="Exists", effect="NoExecute")
    assert not tolerates(key="gpu")


def test_times() -> None:
    assert parse_time("1970-01-01T00:01:00Z") == 60.0
    assert parse_time("1970-01-01T01:01:00+01:00") == 60.0
    assert parse_time("1970-01-01T00:01:00.250000Z") == 60.25
    assert format_time(60.9) == "1970-01-01T00:01:00Z"


def test_metadata_is_read_as_it_comes() -> None:
    meta = parse(ObjectMeta, {"name": "a", "managedFields": [{}], "deletionTimestamp": "2026-01-02T03:04:05Z"})
    assert meta.deletion_timestamp == "2026-01-02T03:04:05Z"
    assert parse(Site, {"metadata": {"name": "a", "deletionTimestamp": "2026-01-02T03:04:05Z"}}).deleting
    assert not parse(Site, {"metadata": {"name": "a"}}).deleting


def test_conditions_need_a_reason() -> None:
    with pytest.raises(ApiError):
        parse(
            Condition, {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z", "reason": ""}
        )
