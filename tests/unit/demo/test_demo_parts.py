"""The demo's pure parts: manifests that the API accepts strictly, labels that are planned with care, and the shelf."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pytest
import yaml

from edgeward.api.common import parse
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelRelease
from edgeward.placement.formulas import priority_tier
from tests.demo.current import label_plan, upload
from tests.demo.kube import StoryError
from tests.demo.shelf import Shelf
from tests.demo.show import score_table, table
from tests.demo.stage import MANIFESTS
from tests.demo.story import pick
from tests.demo.tasks import file_tensor, name_file, read_sign, sign_tensor

WORDS = {"VERSION": "1.0.0", "URL": "http://10.0.0.1:80/m.onnx", "DIGEST": f"sha256:{'0' * 64}", "EXPOSE": "NodePort"}
TIERS = {"sign-reader": 4, "file-sorter": 1, "page-turner": 3}


@pytest.mark.parametrize("name", sorted(path.stem for path in MANIFESTS.glob("*.yaml")))
def test_the_manifests_are_what_the_api_takes(name: str) -> None:
    release, *jobs = yaml.safe_load_all(Template((MANIFESTS / f"{name}.yaml").read_text()).substitute(WORDS))
    assert parse(ModelRelease, release, strict=True).spec.version == "1.0.0"
    if name.endswith("-gated"):
        assert release["metadata"]["name"] == name.removesuffix("-gated") and not jobs, "the job stays as it is"
        return
    (job,) = jobs
    parsed = parse(InferenceJob, job)
    marks = parsed.spec.priority
    assert parsed.spec.model.name == parsed.name == release["metadata"]["name"]
    assert priority_tier(marks.importance, marks.urgency, marks.satisfaction) == TIERS[name]


def node(name: str, *, labels: dict[str, str] | None = None, taint: str = "", off: bool = False) -> dict[str, Any]:
    taints = [{"key": "k", "effect": taint}] if taint else []
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {"taints": taints, "unschedulable": off}}


def test_two_edges_and_a_cloud_are_made_of_nodes_without_labels() -> None:
    assert label_plan([node("c"), node("a"), node("d"), node("b")]) == (
        ("a", "edgeward.dev/tier", "cloud"),
        ("b", "edgeward.dev/tier", "edge"),
        ("b", "edgeward.dev/site", "demo-a"),
        ("c", "edgeward.dev/tier", "edge"),
        ("c", "edgeward.dev/site", "demo-b"),
    )


def test_a_single_node_is_an_edge() -> None:
    assert list(label_plan([node("a")])) == [
        ("a", "edgeward.dev/tier", "edge"),
        ("a", "edgeward.dev/site", "demo-a"),
    ]


def test_labels_that_are_there_are_left_alone() -> None:
    assert label_plan([node("a", labels={"edgeward.dev/tier": "edge"}), node("b")]) == ()


def test_tainted_and_cordoned_nodes_are_not_used() -> None:
    nodes = [node("a", taint="NoSchedule"), node("b", off=True), node("c", taint="PreferNoSchedule")]
    assert {name for name, _, _ in label_plan(nodes)} == {"c"}
    with pytest.raises(StoryError):
        label_plan(nodes[:2])


def test_the_same_seed_picks_the_same_node_whatever_the_order() -> None:
    names = ["edge-1", "edge-2", "edge-3"]
    assert {pick(names, seed=seed) for seed in range(30)} == set(names)
    assert all(pick(names, seed=seed) == pick(names[::-1], seed=seed) for seed in range(10))


def test_ctc_merges_repeats_but_not_across_a_blank() -> None:
    steps = [1, 1, 0, 1, 2, 3, 0]
    scores = np.full((1, len(steps), 4), 0.1, np.float32)
    for step, label in enumerate(steps):
        scores[0, step, label] = 0.7
    text, sure = read_sign(scores, ["a", "b"])
    assert text == "aab"  # and the space at the end, class 3, is margin
    assert sure == pytest.approx(0.7)


def test_pixels_become_what_the_reader_was_trained_on() -> None:
    pixels = np.zeros((48, 16, 3), np.uint8)
    pixels[:, :, 0] = 255  # red
    tensor = sign_tensor(pixels)
    assert tensor.shape == (1, 3, 48, 16)
    assert tensor[0, :, 0, 0].tolist() == [-1.0, -1.0, 1.0]  # BGR


def test_a_short_file_is_padded_behind_its_beginning_and_before_its_end() -> None:
    tensor = file_tensor(b"  ab  ")[0].tolist()
    assert tensor[:6] == [97, 98, 32, 32, 256, 256]
    assert tensor[-6:] == [256, 256, 32, 32, 97, 98]
    assert len(tensor) == 2048


def test_the_best_class_names_the_file() -> None:
    assert name_file(np.array([[0.1, 0.9]], np.float32), ("a", "b")) == ("b", pytest.approx(0.9))


def test_a_table_has_a_column_per_node_and_sums_its_terms() -> None:
    terms = [{"name": "load", "weight": 500, "value": 900}, {"name": "stay", "weight": 500, "value": 100}]
    explanation = {"node": "a", "terms": terms, "runnersUp": [{"node": "b", "terms": terms[::-1]}]}
    text = score_table(explanation)
    assert "a (chosen)" in text
    assert "b (runner-up)" in text
    assert "0.500" in text.splitlines()[4]
    assert table([("x", "yy"), ("long", "z")]).splitlines()[1].split() == ["----", "--"]


@pytest.fixture
def shelf(tmp_path: Path) -> Any:
    (tmp_path / "data").mkdir()

    def handler(*arguments: Any) -> Shelf:
        return Shelf(*arguments, directory=str(tmp_path / "data"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_shelf_gives_back_what_was_put(shelf: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x" * 3_000_000)
    upload(shelf, tmp_path / "m.onnx")
    with urllib.request.urlopen(f"{shelf}/m.onnx") as answer:
        assert answer.read() == b"x" * 3_000_000


@pytest.mark.parametrize("name", ["../m.onnx", "a/b", ".hidden", "A", ""])
def test_the_shelf_takes_plain_names_only(shelf: str, tmp_path: Path, name: str) -> None:
    request = urllib.request.Request(f"{shelf}/{name}", data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    assert list((tmp_path / "data").iterdir()) == []
    assert not (tmp_path / "m.onnx").exists()
