"""Pictures and sensors' rows posted as they are, to a real server with an artifact's preprocessing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from PIL import Image

from tests.integration.test_runtime_offload import metric
from tests.integration.test_runtime_serving import REPOSITORY, Server, server
from tests.unit.runtime.onnx_models import means_of_channels, sharpened

IMAGES = {
    "record": {"kind": "Image"},
    "steps": [
        {"step": "Resize", "width": 8, "height": 8},
        {"step": "DropNearDuplicates", "distance": 2},
        {"step": "Normalise", "scale": 1 / 255},
    ],
    "output": {"input": "x", "layout": "NCHW"},
}
TABLES = {
    "record": {"kind": "Table", "channels": ["t1", "t2", "a", "b", "c"]},
    "steps": [
        {"step": "Denoise", "filter": "Median", "size": 3},
        {"step": "Fuse", "into": [{"name": "t", "channels": ["t1", "t2"], "weights": [3, 1]}]},
    ],
    "output": {"input": "x", "layout": "Rows"},
}


def folder(path: Path, model: bytes, chain: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "model.onnx").write_bytes(model)
    (path / "preprocessing.json").write_text(json.dumps(chain))
    return path


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path, str(folder(tmp_path / "colours", means_of_channels(), IMAGES))) as one:
        yield one


@pytest.fixture
def sensor(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path, str(folder(tmp_path / "rows", sharpened(1.0), TABLES))) as one:
        yield one


def jpeg(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def post(one: Server, name: str, body: bytes, kind: str, **headers: str) -> tuple[int, dict[str, Any]]:
    more = {key.replace("_", "-"): value for key, value in headers.items()}
    status, _, answered = one.request("POST", f"/v2/models/{name}/infer", body, {"Content-Type": kind, **more})
    return status, json.loads(answered)


def test_a_cameras_jpeg_is_posted_as_it_is(camera: Server):
    status, answer = post(camera, "colours", jpeg(255, 128, 0), "image/jpeg")
    assert status == 200 and answer["model_name"] == "colours"
    np.testing.assert_allclose(answer["outputs"][0]["data"], [1.0, 0.5, 0.0], atol=0.02)
    assert metric(camera, "edgeward_records_total", model="colours", version="1") == 1
    size = metric(camera, "edgeward_record_bytes_total", model="colours", version="1", stage="received")
    assert size == len(jpeg(255, 128, 0))
    assert (
        metric(camera, "edgeward_record_bytes_total", model="colours", version="1", stage="prepared") == 8 * 8 * 3 * 4
    )


def test_what_hardly_changes_is_not_inferred_again(camera: Server):
    ids = []
    for source, colour in (("gate", 100), ("gate", 101), ("yard", 101), ("gate", 120)):
        status, answer = post(camera, "colours", jpeg(colour, 0, 0), "image/jpeg", Edgeward_Source=source)
        assert status == 200
        ids.append((answer["id"], answer.get("parameters", {}).get("near_duplicate_of")))
    assert [of for _id, of in ids] == [None, ids[0][0], None, None]
    assert metric(camera, "edgeward_near_duplicates_total", model="colours", version="1") == 1
    assert metric(camera, "nv_inference_exec_count", model="colours", version="1") == 3


def test_protocol_clients_send_a_record_or_the_tensor(camera: Server):
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{camera.port}")
    body = np.frombuffer(jpeg(0, 255, 0), np.uint8)
    record = tritonclient.http.InferInput("record", [len(body)], "UINT8")
    record.set_data_from_numpy(body)
    green = client.infer("colours", [record]).as_numpy("y")
    tensor = tritonclient.http.InferInput("x", [1, 3, 8, 8], "FP32")
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[0, 1] = 1
    tensor.set_data_from_numpy(pixels)
    np.testing.assert_allclose(green, client.infer("colours", [tensor]).as_numpy("y"), atol=0.02)


def test_rows_of_a_sensor_with_one_channel_gone(sensor: Server):
    status, answer = post(sensor, "rows", b"t2,a,b,c\n8,1,1,1\n8,1,1,1\n", "text/csv; header=present")
    assert status == 200 and answer["outputs"][0]["shape"] == [2, 4]
    assert answer["parameters"] == {"missing_channels": "t1"}
    assert metric(sensor, "edgeward_missing_channels_total", model="rows", version="1", channel="t1") == 1


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b"t1,a\n1,2\n", "text/csv", 400, "lacks values of ['b', 'c']"),
        (b"1,2,3,4,x\n", "text/csv", 400, "'x' is not a number"),
        (b"", "text/csv", 400, "0 rows"),
    ],
)
def test_rows_that_cannot_be_used(sensor: Server, body: bytes, kind: str, status: int, says: str):
    got, answer = post(sensor, "rows", body, kind)
    assert got == status and says in answer["error"]


def test_a_picture_for_a_model_without_preprocessing(tmp_path: Path):
    path = tmp_path / "plain.onnx"
    path.write_bytes(sharpened(1.0))
    with server(tmp_path, str(path)) as one:
        status, answer = post(one, "plain", jpeg(0, 0, 0), "image/jpeg")
        assert status == 415 and "has no preprocessing" in answer["error"]


def test_preprocessing_that_does_not_fit_the_model_is_refused_at_start(tmp_path: Path):
    wrong = {**TABLES, "output": {"input": "z", "layout": "Rows"}}
    path = folder(tmp_path / "rows", sharpened(1.0), wrong)
    command = [sys.executable, "-m", "edgeward_runtime.cli", str(path)]
    environment = {"PYTHONPATH": str(REPOSITORY / "edge-runtime"), "PATH": ""}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "PreprocessingInvalid: output.input is 'z', the model takes ['x']" in ended.stderr


def test_many_cameras_at_once(camera: Server):
    """Decoded apart, run together: each gets its own answer."""

    def shot(number: int) -> tuple[int, float]:
        status, answer = post(camera, "colours", jpeg(0, 0, number * 8), "image/jpeg", Edgeward_Source=str(number))
        return status, answer["outputs"][0]["data"][2]

    with ThreadPoolExecutor(8) as clients:
        for number, (status, blue) in enumerate(clients.map(shot, range(32))):
            assert status == 200 and blue == pytest.approx(number * 8 / 255, abs=0.02)
