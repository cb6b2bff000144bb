"""`edgeward what-if` without a cluster: its text as golden files, its options, and what it says to wrong ones.

After a wanted change: EDGEWARD_UPDATE_GOLDEN=1 pytest tests/unit/cli/test_whatif.py, then read the diff."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.cli.main import main
from edgeward.fleet.model import Namespace
from edgeward.placement.record import record_text

from .objects import DIGEST, recorded

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fleet") / "fleet.json"
    path.write_text(record_text(recorded()))
    return str(path)


def a_job(name: str = "plate-reader", **spec: Any) -> dict[str, Any]:
    known = {
        "model": {"name": "m"},
        "replicas": 2,
        "priority": {"importance": 5, "urgency": 5, "satisfaction": 5},
        "resources": {"requests": {"cpu": "1500m", "memory": "256Mi"}},
        "placement": {"tiers": ["edge"]},
    }
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": "test"},
        "spec": {**known, **spec},
    }


def written(tmp_path: Path, *objects: Any) -> str:
    path = tmp_path / "jobs.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], snapshot: str, *options: str) -> dict[str, Any]:
    assert main(["what-if", "--snapshot", snapshot, "-o", "json", *options]) == 0
    return dict(json.loads(capsys.readouterr().out))


ASKED = {
    "nothing": [],
    "node": ["--without-node", "shop-1-a"],
    "site": ["--without-site", "hub"],
    "job": ["-f", "JOB"],
    "job-and-nodes": ["-f", "JOB", "--add-node", "tier=edge,cpu=4,memory=8Gi,site=shop-5,count=2"],
    "shape": ["--without-site", "hub", "--shape", "tier=fog,cpu=16,memory=32Gi,site=hub-2"],
    "weights": ["--set-weight", "headroom=20", "--set-weight", "load=0"],
}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_the_text(
    name: str, snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    options = [written(tmp_path, a_job()) if option == "JOB" else option for option in ASKED[name]]
    assert main(["what-if", "--snapshot", snapshot, *options]) == 0
    text = capsys.readouterr().out
    path = GOLDEN / f"what-if-{name}.txt"
    if os.environ.get("EDGEWARD_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_yaml_and_json_say_the_same(snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, snapshot, "--without-site", "hub")
    assert main(["what-if", "--snapshot", snapshot, "-o", "yaml", "--without-site", "hub"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == found
    assert {row["job"]: row["outcome"] for row in found["jobs"]} == {"test/page-turner": "refused"}


def test_another_spec_for_a_job_that_is_there(
    snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"replicas": 3, "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}}, "placement": {}}
    spec["priority"] = {"importance": 1, "urgency": 1, "satisfaction": 1}  # type: ignore[assignment]
    found = answer(capsys, snapshot, "-f", written(tmp_path, a_job("file-sorter", **spec)))
    assert found["changes"] == ["another spec for job test/file-sorter"]
    (row,) = found["jobs"]
    assert (row["job"], row["outcome"], sum(row["to"].values())) == ("test/file-sorter", "placed", 3)
    for name, count in row["from"].items():
        assert row["to"][name] >= count, "what runs stays"


def test_a_model_that_has_no_release_yet_and_one_that_comes_with_the_file(
    snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = a_job(model={"name": "fresh"}, resources={"requests": {"cpu": "100m", "memory": "64Mi"}}, replicas=1)
    (row,) = answer(capsys, snapshot, "-f", written(tmp_path, job))["jobs"]
    assert (row["outcome"], row["reason"]) == ("refused", "NoRunnableModel")
    release = {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"name": "fresh", "namespace": "test"},
        "spec": {"version": "1.0.0", "artifact": {"uri": "https://models.example/x.onnx", "digest": DIGEST}},
    }
    (row,) = answer(capsys, snapshot, "-f", written(tmp_path, job, release))["jobs"]
    assert (row["outcome"], sum(row["to"].values())) == ("placed", 1)


def test_a_namespaces_limits_hold_for_what_is_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = recorded()
    limit = Namespace("test", max_replicas=1000, max_cpu=100_000, max_priority_tier=2)
    fleet = replace(found.fleet, namespaces=(limit,), max_priority_tier=4)
    path = tmp_path / "fleet.json"
    path.write_text(record_text(replace(found, fleet=fleet, plan="")))
    small = {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}, "replicas": 1}
    (row,) = answer(capsys, str(path), "-f", written(tmp_path, a_job(**small)))["jobs"]
    assert (row["outcome"], row["reason"]) == ("refused", "PolicyForbids")
    low = {**small, "priority": {"importance": 1, "urgency": 1, "satisfaction": 1}}
    (row,) = answer(capsys, str(path), "-f", written(tmp_path, a_job(**low)))["jobs"]
    assert row["outcome"] == "placed"


def test_lists_and_several_files(snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}, "replicas": 1}
    both = {"apiVersion": "v1", "kind": "List", "items": [a_job("one", **small), a_job("two", **small)]}
    first = written(tmp_path, both)
    second = tmp_path / "more.json"
    third = a_job("three", **small)
    del third["metadata"]["namespace"]
    second.write_text(json.dumps(third))
    found = answer(capsys, snapshot, "-f", first, "-f", str(second), "-n", "test")
    assert [row["job"] for row in found["jobs"]] == ["test/one", "test/three", "test/two"]


def test_a_status_in_the_file_is_not_believed(
    snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kubectl get -o yaml > job.yaml, an editor, and back: what it says of replicas is of another time."""
    job = a_job(resources={"requests": {"cpu": "100m", "memory": "64Mi"}})
    found = answer(capsys, snapshot, "-f", written(tmp_path, {**job, "status": {"replicas": 7, "nonsense": True}}))
    assert [row["outcome"] for row in found["jobs"]] == ["placed"]


BAD: dict[str, tuple[list[str], list[str]]] = {
    "node": (["--without-node", "shop-9"], ["--without-node: no node shop-9 in the fleet", "there are cloud-1, hub-1"]),
    "site": (["--without-site", "moon"], ["--without-site: no site moon", "there are cloud, hub, shop-1"]),
    "no tier": (["--add-node", "cpu=4,memory=8Gi"], ["--add-node tier: is missing", "such as tier=edge"]),
    "tier": (["--add-node", "tier=sky,cpu=4,memory=8Gi"], ["--add-node tier: sky is no tier", "edge, fog, cloud"]),
    "cpu": (["--add-node", "tier=edge,cpu=4x,memory=8Gi"], ["--add-node cpu: '4x' is not a quantity"]),
    "nothing": (["--add-node", "tier=edge,cpu=0,memory=8Gi"], ["--add-node cpu: 0 is nothing"]),
    "count": (["--add-node", "tier=edge,cpu=4,memory=8Gi,count=-1"], ["--add-node count: -1 is no whole number"]),
    "pair": (["--add-node", "edge"], ["--add-node edge: is not KEY=VALUE", "such as tier=edge"]),
    "twice": (["--add-node", "tier=edge,tier=fog,cpu=4,memory=8Gi"], ["--add-node tier: is there twice"]),
    "unknown": (["--add-node", "tier=edge,cpu=4,memory=8Gi,colour=red"], ["--add-node colour: is no property"]),
    "site of a tier": (
        ["--add-node", "tier=fog,cpu=4,memory=8Gi,site=shop-1"],
        ["site shop-1 is of tier edge, not fog"],
    ),
    "name": (["--add-node", "tier=edge,cpu=4,memory=8Gi,name=hub-1"], ["there is a node hub-1 already"]),
    "shape": (["--shape", "tier=edge,cpu=4"], ["--shape memory: is missing"]),
    "term": (["--set-weight", "luck=2"], ["--set-weight luck: is no term of the score", "headroom, load"]),
    "weight": (["--set-weight", "load=much"], ["--set-weight load: much is no weight"]),
    "negative": (["--set-weight", "load=-1"], ["--set-weight load: -1 is no weight"]),
    "infinite": (["--set-weight", "load=inf"], ["--set-weight load: inf is no weight"]),
    "file": (["-f", "/nowhere/job.yaml"], ["-f /nowhere/job.yaml", "No such file"]),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_wrong_options_are_named_with_a_remedy(name: str, snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, said = BAD[name]
    assert main(["what-if", "--snapshot", snapshot, *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(part in shown.err for part in said), shown.err
    assert len(shown.err.splitlines()) == 2, "what is wrong, and what to do"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is no YAML"),
        ("", "holds no object"),
        ("just words", "holds something that is no object"),
        (
            "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}",
            "apps/v1 Deployment: is nothing that the planner",
        ),
        ("kind: InferenceJob\napiVersion: edgeward.dev/v1\nmetadata: {name: x}", "edgeward.dev/v1 InferenceJob"),
        ("kind: InferenceJob\napiVersion: edgeward.dev/v1alpha1\nspec: {}", "metadata.name: is missing"),
        (yaml.safe_dump(a_job(replicsa=2)), "InferenceJob plate-reader: spec.replicsa"),
        (yaml.safe_dump(a_job(priority={"urgency": 9})), "InferenceJob plate-reader: spec.priority.urgency"),
        (yaml.safe_dump(a_job(resources={"requests": {"cpu": "lots"}})), "spec.resources.requests"),
    ],
)
def test_wrong_files_are_named_with_a_remedy(
    content: str, said: str, snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    assert main(["what-if", "--snapshot", snapshot, "-f", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(path) in error, error


def test_all_weights_zero(snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import fields

    from edgeward.placement.settings import Weights

    options = [part for item in fields(Weights) for part in ("--set-weight", f"{item.name}=0")]
    assert main(["what-if", "--snapshot", snapshot, *options]) == 2
    assert "every weight is 0" in capsys.readouterr().err


def test_no_search(snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, snapshot, "--without-site", "hub", "--no-search")
    assert found["extraCapacity"]["waitingReplicas"] == 0


def test_a_larger_fleet_is_searched_without_the_solver(
    snapshot: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeward.cli.whatif.LARGE", 1)
    found = answer(capsys, snapshot, "--without-site", "hub")
    assert found["extraCapacity"]["ways"]
    assert any("without the solver" in caveat for caveat in found["caveats"])
