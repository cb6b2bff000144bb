"""The CRDs at a real API server: what it refuses and in which words, what it accepts, and what it fills in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.api.common import parse, to_dict
from edgeward.api.conditions import Reason, set_outcome
from edgeward.api.inferencejob import InferenceJob, InferenceJobSpec
from edgeward.api.objects import API_VERSION, KINDS, parse_object
from tests.cluster import ControlPlane

ROOT = Path(__file__).parents[2]
BAD = Path(__file__).with_name("bad_objects")
SAMPLES = ROOT / "tests" / "unit" / "api" / "samples"
NAMESPACE = "crds"
DIGEST = "sha256:" + "a" * 64

GOOD: dict[str, dict[str, Any]] = {
    "InferenceJob": {"model": {"name": "sign-reader"}},
    "ModelRelease": {"version": "1.4.0", "artifact": {"uri": "https://models.example/a.onnx", "digest": DIGEST}},
    "Site": {"tier": "edge"},
    "Assignment": {"job": {"namespace": "shop", "name": "sign-reader"}, "site": "north", "revision": 7},
}


def merge(base: Any, over: Any) -> Any:
    """RFC 7386: null takes a field away."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    merged = {key: merge(base.get(key), value) for key, value in over.items() if value is not None}
    return {**{key: value for key, value in base.items() if key not in over}, **merged}


def bad_objects() -> Iterator[Any]:
    by_plural = {info.plural: kind for kind, info in KINDS.items()}
    for table in sorted(BAD.glob("*.yaml")):
        kind = by_plural[table.stem]
        for entry in yaml.safe_load(table.read_text("utf-8")):
            body = {
                "apiVersion": API_VERSION,
                "kind": kind,
                "metadata": entry.get("metadata", {"name": "bad"}),
                "spec": merge(GOOD[kind], entry.get("spec", {})),
            }
            yield pytest.param(body, entry["field"], entry["says"], id=f"{kind}-{entry['case']}")


BAD_OBJECTS = list(bad_objects())


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl("create", "namespace", NAMESPACE)
    return control_plane


def create(plane: ControlPlane, body: dict[str, Any], *, dry: bool = False) -> str:
    """kubectl create; returns what kubectl said on standard error, empty when the object was accepted."""
    mode = ["--dry-run=server"] if dry else []
    done = plane.kubectl("-n", NAMESPACE, "create", *mode, "-f", "-", stdin=json.dumps(body), check=False)
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


def get(plane: ControlPlane, what: str) -> Any:
    return json.loads(plane.kubectl("-n", NAMESPACE, "get", what, "-o", "json").stdout)


def job(name: str, **spec: Any) -> dict[str, Any]:
    body = {"apiVersion": API_VERSION, "kind": "InferenceJob", "metadata": {"name": name}}
    return {**body, "spec": merge(GOOD["InferenceJob"], spec)}


def test_enough_bad_objects() -> None:
    assert len(BAD_OBJECTS) >= 30


@pytest.mark.parametrize(("body", "field", "says"), BAD_OBJECTS)
def test_refused_with_the_field_and_the_reason(
    plane: ControlPlane, body: dict[str, Any], field: str, says: str
) -> None:
    said = create(plane, body, dry=True)
    assert said, "the API server accepted it"
    complaints = [line for line in said.replace("\n* ", "\n").splitlines() if field in line and says in line]
    assert complaints, said
    if "unknown field" not in says:
        # The API server's own form, `path: what: text`, not only a word in passing.
        assert any(f"{field}: " in line for line in complaints), said


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_base_of_the_bad_ones_is_accepted(plane: ControlPlane, kind: str) -> None:
    body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "good"}, "spec": GOOD[kind]}
    assert create(plane, body, dry=True) == ""


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_full_objects_survive_the_server(plane: ControlPlane, path: Path) -> None:
    """Every field of every kind, spec and status, is stored as it was sent, and read back into an equal model."""
    body = yaml.safe_load(path.read_text("utf-8"))
    body["metadata"] = {"name": f"full-{path.stem}"}
    plane.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(body))
    what = f"{KINDS[body['kind']].plural}/full-{path.stem}"
    if "status" in body:
        status = json.dumps({"status": body["status"]})
        plane.kubectl("-n", NAMESPACE, "patch", what, "--subresource=status", "--type=merge", "-p", status)
    stored = get(plane, what)
    assert stored["spec"] == merge(stored["spec"], body["spec"])
    assert stored.get("status") == body.get("status")
    sent, read = parse_object(body, strict=True), parse_object(stored)
    assert read.spec == sent.spec


def test_defaults_are_visible_and_those_of_the_models(plane: ControlPlane) -> None:
    assert create(plane, job("defaults", priority={}, disconnect={}, expose={})) == ""
    spec = get(plane, "ij/defaults")["spec"]
    assert spec == {
        "model": {"name": "sign-reader"},
        "replicas": 1,
        "replicaScope": "Total",
        "update": "Surge",
        "priority": {"importance": 3, "urgency": 3, "satisfaction": 3},
        "disconnect": {"lostAfter": "5m", "replace": True},
        "expose": {"type": "ClusterIP", "port": 80},
    }
    assert parse(InferenceJobSpec, spec) == parse(InferenceJobSpec, {"model": {"name": "sign-reader"}})


def test_numbers_are_accepted_where_quantities_stand(plane: ControlPlane) -> None:
    assert create(plane, job("numbers", resources={"requests": {"cpu": 2}}, placement={"minBandwidth": 1000000})) == ""
    spec = parse(InferenceJob, get(plane, "ij/numbers")).spec
    assert (spec.resources.requests["cpu"], spec.placement.min_bandwidth) == ("2", "1000000")


def test_names_at_the_limit(plane: ControlPlane) -> None:
    assert create(plane, job("a" * 63), dry=True) == ""
    site = {"apiVersion": API_VERSION, "kind": "Site", "metadata": {"name": "a" * 48}, "spec": {}}
    assert create(plane, site, dry=True) == ""


def test_status_is_a_subresource(plane: ControlPlane) -> None:
    assert create(plane, job("status") | {"status": {"replicas": 9}}) == ""
    before = get(plane, "ij/status")
    assert "status" not in before
    conditions = set_outcome((), reason=Reason.SERVING, message="1/1", generation=1, now=60)
    patch = {
        "status": {"replicas": 1, "conditions": [to_dict(condition) for condition in conditions]},
        "spec": {"x": 1},
    }
    text = json.dumps(patch)
    plane.kubectl("-n", NAMESPACE, "patch", "ij/status", "--subresource=status", "--type=merge", "-p", text)
    after = get(plane, "ij/status")
    assert after["status"]["replicas"] == 1
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    plane.kubectl("-n", NAMESPACE, "wait", "ij/status", "--for=condition=Ready", "--timeout=5s")


def test_two_conditions_of_one_type_are_refused(plane: ControlPlane) -> None:
    assert create(plane, job("twice")) == ""
    one = to_dict(set_outcome((), reason=Reason.SERVING, now=60)[0])
    text = json.dumps({"status": {"conditions": [one, one]}})
    done = plane.kubectl(
        "-n", NAMESPACE, "patch", "ij/twice", "--subresource=status", "--type=merge", "-p", text, check=False
    )
    assert done.returncode != 0
    assert "status.conditions[1]: Duplicate value" in done.stderr


def test_scale(plane: ControlPlane) -> None:
    assert create(plane, job("scaled", replicas=1)) == ""
    status = json.dumps({"status": {"replicas": 1, "selector": "edgeward.dev/job=scaled"}})
    plane.kubectl("-n", NAMESPACE, "patch", "ij/scaled", "--subresource=status", "--type=merge", "-p", status)
    plane.kubectl("-n", NAMESPACE, "scale", "ij/scaled", "--replicas=4", "--current-replicas=1")
    assert get(plane, "ij/scaled")["spec"]["replicas"] == 4
    scale = json.loads(
        plane.kubectl("get", "--raw", f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/inferencejobs/scaled/scale").stdout
    )
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 1, "selector": "edgeward.dev/job=scaled"}
    done = plane.kubectl("-n", NAMESPACE, "scale", "ij/scaled", "--replicas=20000", check=False)
    assert done.returncode != 0
    assert "spec.replicas" in done.stderr


def test_columns_tell_the_story(plane: ControlPlane) -> None:
    body = yaml.safe_load((SAMPLES / "inferencejob.yaml").read_text("utf-8"))
    body["metadata"] = {"name": "columns"}
    plane.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(body))
    status = json.dumps({"status": body["status"]})
    plane.kubectl("-n", NAMESPACE, "patch", "ij/columns", "--subresource=status", "--type=merge", "-p", status)
    head, row = plane.kubectl("-n", NAMESPACE, "get", "ij", "columns").stdout.splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "PRIORITY", "REPLICAS", "SERVING", "SITES", "VERSION", "AGE"]
    assert row.split()[:-1] == ["columns", "True", "Serving", "4", "3", "3", "2", "1.4.0"]
    wide = plane.kubectl("-n", NAMESPACE, "get", "ij", "columns", "-o", "wide").stdout
    assert "731" in wide
    assert "3/3" in wide


def test_short_names_and_the_category(plane: ControlPlane) -> None:
    listed = plane.kubectl("api-resources", "--categories=edgeward", "--no-headers", "-o", "wide").stdout
    names = {line.split()[0]: line.split()[1] for line in listed.splitlines()}
    assert set(names) == {info.plural for info in KINDS.values()}
    assert (names["inferencejobs"], names["modelreleases"], names["sites"]) == ("ij", "mr", "st")
    for line in listed.splitlines():
        assert ("true" in line.split()) == (not line.startswith("sites "))


def test_explain_knows_every_field(plane: ControlPlane) -> None:
    text = plane.kubectl("explain", "ij.spec.disconnect.lostAfter").stdout
    assert "How long a site is silent" in text


@pytest.mark.parametrize(
    ("patch", "field", "says"),
    [
        ({"revision": 6}, "spec.revision", "read the current revision and write a higher one"),
        ({"job": {"name": "other"}}, "spec.job.name", "make a new Assignment"),
        ({"job": {"namespace": "other"}}, "spec.job.name", "make a new Assignment"),
    ],
    ids=["revision", "name", "namespace"],
)
def test_an_assignment_only_goes_forward(plane: ControlPlane, patch: dict[str, Any], field: str, says: str) -> None:
    body = {
        "apiVersion": API_VERSION,
        "kind": "Assignment",
        "metadata": {"name": "forward"},
        "spec": GOOD["Assignment"],
    }
    plane.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(body))
    text = json.dumps({"spec": patch})
    done = plane.kubectl("-n", NAMESPACE, "patch", "assignments/forward", "--type=merge", "-p", text, check=False)
    assert done.returncode != 0
    assert f"{field}: " in done.stderr
    assert says in done.stderr
    same = json.dumps({"spec": {"revision": 7, "job": {"uid": "another"}}})
    plane.kubectl("-n", NAMESPACE, "patch", "assignments/forward", "--type=merge", "-p", same)


def test_an_opaque_pod_template_is_kept_whole(plane: ControlPlane) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "server", "tpyo": [1, 2.5]}]}}
    assert create(plane, job("opaque", podTemplate=template)) == ""
    assert get(plane, "ij/opaque")["spec"]["podTemplate"] == template
