"""The Open Inference Protocol over REST with Triton's extensions: by Triton's own unmodified clients (synchronous and
asyncio), and by hand for what they never send."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import itertools
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.integration.conformance.target import (
    DATATYPES,
    FIRST,
    LIMIT,
    MAX_BODY,
    MODELS,
    NUMPY,
    SECOND,
    VERSION,
    Target,
    values_of,
)


class Aio:
    """The asyncio client, called as if it were the other one."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._make(url))

    @staticmethod
    async def _make(url: str) -> Any:
        return triton_aio.InferenceServerClient(url)

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._run(getattr(self._client, name)(*arguments, **options))

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()


@pytest.fixture(params=["sync", "aio"])
def client(served: Target, request: pytest.FixtureRequest) -> Iterator[Any]:
    url = served.rest
    one: Any = triton.InferenceServerClient(url, network_timeout=LIMIT) if request.param == "sync" else Aio(url)
    yield one
    one.close()


def tensor(name: str, datatype: str, values: Any, *, binary: bool = True) -> triton.InferInput:
    array = np.asarray(values, NUMPY[datatype])
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def wanted(*names: str, binary: bool = True, **options: Any) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary, **options) for name in names]


def pair(*, binary: bool = True) -> list[triton.InferInput]:
    return [tensor("INPUT0", "INT32", FIRST, binary=binary), tensor("INPUT1", "INT32", SECOND, binary=binary)]


# -- Triton's clients -------------------------------------------------------------------------------------------------


def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("simple") and client.is_model_ready("simple", VERSION)
    assert not client.is_model_ready("other") and not client.is_model_ready("simple", "9")


def test_metadata(client):
    document = client.get_server_metadata()
    assert document["name"] and document["version"] and isinstance(document["extensions"], list)
    for version in ("", VERSION):
        document = client.get_model_metadata("simple", version)
        assert document["name"] == "simple" and document["platform"]
        assert not VERSION or document["versions"] == [VERSION]
        assert {"name": "INPUT1", "datatype": "INT32", "shape": [1, 16]} in document["inputs"]
        assert [output["name"] for output in document["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert client.get_model_metadata("FP32", query_params={"a": 1}, headers={"X-A": "b"})["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, -1]}
    ]


@pytest.mark.ours
def test_our_own_metadata(client):
    document = client.get_server_metadata()
    assert document["name"] == "edgeward"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(document["extensions"])


@pytest.mark.ours
def test_the_repository(client):
    index = client.get_model_repository_index()
    assert {one["name"] for one in index} == set(MODELS)
    assert {(one["version"], one["state"], one["reason"]) for one in index} == {(VERSION, "READY", "")}
    client.load_model("simple")
    with pytest.raises(InferenceServerException, match="failed to load 'other'"):
        client.load_model("other")
    with pytest.raises(InferenceServerException, match="config or files cannot be given"):
        client.load_model("simple", config="{}")
    with pytest.raises(InferenceServerException, match="explicit unload is not possible"):
        client.unload_model("simple")
    assert client.is_model_ready("simple")


def test_statistics(client):
    def counts() -> tuple[int, int, dict[str, Any]]:
        (model,) = client.get_inference_statistics("mlp", VERSION)["model_stats"]
        return model["inference_count"], model["execution_count"], model["inference_stats"]

    rows, runs, stats = counts()
    client.infer("mlp", [tensor("x", "FP32", np.zeros((3, 64)))])
    with pytest.raises(InferenceServerException):
        client.infer("mlp", [tensor("x", "FP32", np.zeros((3, 63)))])
    rows_after, runs_after, after = counts()
    assert (rows_after - rows, runs_after - runs) == (3, 1)
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after[part]["count"] == stats[part]["count"] + 1
        assert after[part]["ns"] >= stats[part]["ns"]
    assert after["success"]["ns"] > stats["success"]["ns"]
    everything = client.get_inference_statistics()["model_stats"]
    assert {one["name"] for one in everything} == set(MODELS)
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_inference_statistics("other")


@pytest.mark.parametrize("given", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("taken", [True, False], ids=["binary", "json"])
def test_two_inputs_and_two_outputs(client, given, taken):
    result = client.infer(
        "simple", pair(binary=given), outputs=wanted("OUTPUT1", "OUTPUT0", binary=taken), request_id="my id"
    )
    assert result.as_numpy("OUTPUT0").tolist() == (FIRST + SECOND).tolist()
    assert result.as_numpy("OUTPUT1").tolist() == (FIRST - SECOND).tolist()
    document = result.get_response()
    assert (document["model_name"], document.get("model_version") or "", document["id"]) == ("simple", VERSION, "my id")
    assert [one["name"] for one in document["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    assert [one["shape"] for one in document["outputs"]] == [[1, 16]] * 2


def test_only_the_outputs_asked_for(client):
    result = client.infer("simple", pair(), outputs=wanted("OUTPUT1"))
    assert result.as_numpy("OUTPUT0") is None and result.as_numpy("OUTPUT1").shape == (1, 16)
    assert [one["name"] for one in client.infer("simple", pair()).get_response()["outputs"]] == ["OUTPUT0", "OUTPUT1"]


def test_binary_and_json_in_one_request_and_one_answer(client):
    inputs = [tensor("INPUT1", "INT32", SECOND), tensor("INPUT0", "INT32", FIRST, binary=False)]
    outputs = [*wanted("OUTPUT0", binary=False), *wanted("OUTPUT1")]
    result = client.infer("simple", inputs, outputs=outputs)
    assert "data" in result.get_output("OUTPUT0") and "data" not in result.get_output("OUTPUT1")
    assert result.as_numpy("OUTPUT0").tolist() == (FIRST + SECOND).tolist()
    assert result.as_numpy("OUTPUT1").tolist() == (FIRST - SECOND).tolist()


# For FP16 and BF16 the protocol has no JSON.
FORMS = [
    pytest.param(
        datatype,
        given,
        taken,
        id=f"{datatype}-{'binary' if given else 'json'}-{'binary' if taken else 'json'}",
        marks=[pytest.mark.ours] if datatype in ("FP16", "BF16") and not (given and taken) else [],
    )
    for datatype, given, taken in itertools.product(DATATYPES, (True, False), (True, False))
]


@pytest.mark.parametrize("rows", [1, 2, 0])
@pytest.mark.parametrize(("datatype", "given", "taken"), FORMS)
def test_every_datatype(served, client, datatype, rows, given, taken):
    values = values_of(datatype, rows)
    if datatype == "BF16" and not given:
        # The client knows it in binary only; the server is asked without it.
        result = by_hand_in_json(served, values)
    else:
        result = client.infer(
            datatype, [tensor("x", datatype, values, binary=given)], outputs=wanted("y", binary=taken)
        )
    answered = result.as_numpy("y")
    assert answered.shape == values.shape
    if datatype == "BYTES" and taken:
        answered = np.array([item.decode() for item in answered.ravel()], np.object_).reshape(rows, 3)
    assert answered.tolist() == values.tolist()
    assert result.get_output("y")["datatype"] == datatype


def by_hand_in_json(served: Target, values: Any) -> triton.InferResult:
    x = {"name": "x", "datatype": "BF16", "shape": list(values.shape), "data": values.astype(float).ravel().tolist()}
    status, _headers, body = request(served, "POST", "/v2/models/BF16/infer", {"inputs": [x]})
    assert status == 200, body
    return triton.InferenceServerClient.parse_response_body(body)


@pytest.mark.parametrize("rows", [1, 5, 300, 0])
def test_dynamic_rows(client, rows):
    x = np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)
    y = client.infer("mlp", [tensor("x", "FP32", x)]).as_numpy("y")
    assert y.shape == (rows, 10)
    singly = [
        client.infer("mlp", [tensor("x", "FP32", x[index : index + 1])]).as_numpy("y") for index in range(min(rows, 3))
    ]
    assert np.allclose(y[:3], np.concatenate(singly) if singly else y, rtol=1e-4, atol=1e-5)


def test_a_scalar(client):
    assert client.infer("scalar", [tensor("x", "FP32", np.float32(2.5))]).as_numpy("y").tolist() == 2.5


@pytest.mark.parametrize("up", [None, "gzip", "deflate"])
@pytest.mark.parametrize("down", [None, "gzip", "deflate"])
@pytest.mark.parametrize("size", [4, 20_000])
def test_compression(client, up, down, size):
    x = np.arange(size, dtype=np.float32).reshape(1, size)
    result = client.infer(
        "FP32",
        [tensor("x", "FP32", x)],
        outputs=wanted("y"),
        request_compression_algorithm=up,
        response_compression_algorithm=down,
    )
    assert np.array_equal(result.as_numpy("y"), x)


def test_strings_as_bytes(client):
    values = np.array([[b"abc", "grün".encode(), b""]], np.object_)
    answered = client.infer("BYTES", [tensor("x", "BYTES", values)]).as_numpy("y")
    assert answered.tolist() == values.tolist()


def test_versions_in_the_path(client):
    assert client.infer("simple", pair(), model_version=VERSION).get_response()["model_version"] == VERSION
    with pytest.raises(InferenceServerException, match="Request for unknown model") as caught:
        client.infer("simple", pair(), model_version="9")
    assert caught.value.status() == "404"


def test_parameters_that_mean_nothing_here(client):
    result = client.infer("simple", pair(), priority=1, timeout=5_000_000, parameters={"mine": 1, "too": "x"})
    assert result.as_numpy("OUTPUT0") is not None


ERRORS: list[tuple[str, Callable[[], Any], Any, str, str]] = [
    ("other", pair, [], "404", "Request for unknown model: 'other'"),
    ("simple", lambda: pair()[:1], [], "400", "missing inputs"),
    ("simple", lambda: [*pair(), tensor("more", "INT32", SECOND)], [], "400", "unexpected input 'more'"),
    ("simple", lambda: [*pair(), pair()[0]], [], "400", "given twice"),
    ("simple", lambda: [pair()[0], tensor("INPUT1", "FP32", SECOND)], [], "400", "datatype"),
    ("simple", lambda: [pair()[0], tensor("INPUT1", "INT32", SECOND.T)], [], "400", "shape"),
    ("simple", lambda: [pair()[0], tensor("INPUT1", "INT32", SECOND[0])], [], "400", "dimensions"),
    ("simple", pair, wanted("OUTPUT2"), "400", "unexpected output 'OUTPUT2'"),
    ("simple", pair, wanted("OUTPUT0", class_count=1), "501", "classification"),
    ("FP32", lambda: [tensor("x", "FP32", np.zeros((1, MAX_BODY // 4)))], [], "413", "limit"),
]
REFUSED = [case for case in ERRORS if case[3] in ("400", "404")]  # the others are about what a server need not have


@pytest.mark.parametrize(("model", "inputs", "outputs"), [case[:3] for case in REFUSED])
def test_what_does_not_fit_the_model_is_refused(client, model, inputs, outputs):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs(), outputs=outputs or None)
    assert caught.value.status().startswith("4") and caught.value.message()
    assert client.infer("simple", pair()).as_numpy("OUTPUT0") is not None, "the connection goes on"


@pytest.mark.ours
@pytest.mark.parametrize(("model", "inputs", "outputs", "status", "said"), ERRORS)
def test_errors(client, model, inputs, outputs, status, said):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs(), outputs=outputs or None)
    assert caught.value.status() == status and said in caught.value.message()
    assert client.infer("simple", pair()).as_numpy("OUTPUT0") is not None, "the connection goes on"


@pytest.mark.ours
@pytest.mark.parametrize("method", ["get_model_config", "get_trace_settings"])
def test_extensions_that_are_not_here_say_so(client, method):
    with pytest.raises(InferenceServerException, match="no such path"):
        getattr(client, method)("simple")


def test_many_at_once(served):
    url = served.rest
    with triton.InferenceServerClient(url, concurrency=8, network_timeout=LIMIT) as one:
        waiting = [one.async_infer("FP32", [tensor("x", "FP32", [[number]])]) for number in range(64)]
        assert [waits.get_result().as_numpy("y").item() for waits in waiting] == list(range(64))

    async def together() -> list[float]:
        async with triton_aio.InferenceServerClient(url) as two:
            results = await asyncio.gather(
                *[two.infer("FP32", [tensor("x", "FP32", [[number]])]) for number in range(64)]
            )
            return [result.as_numpy("y").item() for result in results]

    assert asyncio.run(together()) == list(range(64))


def test_bodies_made_and_read_without_the_clients_own_connection(served):
    body, length = triton.InferenceServerClient.generate_request_body(pair(), outputs=wanted("OUTPUT0"))
    headers = {"Inference-Header-Content-Length": str(length)}
    status, answered, content = request(served, "POST", "/v2/models/simple/infer", body, headers)
    assert status == 200
    header = int(answered["inference-header-content-length"])
    result = triton.InferenceServerClient.parse_response_body(content, header_length=header)
    assert result.as_numpy("OUTPUT0").tolist() == (FIRST + SECOND).tolist()


# -- by hand ----------------------------------------------------------------------------------------------------------


def request(
    served: Target, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(served.host, served.port, timeout=LIMIT)
    try:
        # The protocol asks for no Content-Type, but some servers do.
        kind = {} if isinstance(body, bytes) else {"Content-Type": "application/json"}
        connection.request(method, path, text, {**kind, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def fp32(shape: list[int], data: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": shape, "data": data, **fields}


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [fp32([2, 2], [1, 2, 3, 4])]},
        {"inputs": [fp32([2, 2], [[1, 2], [3, 4]])]},
        {"inputs": [fp32([2, 2], [1.0, 2.0, 3.0, 4.0])], "outputs": []},
        {"inputs": [fp32([2, 2], [1, 2, 3, 4])], "outputs": [{"name": "y"}], "id": None, "parameters": {}},
        {"inputs": [fp32([2, 2], [1, 2, 3, 4], parameters={"content_type": "np"})], "unknown": {"field": 1}},
    ],
)
def test_json_as_the_protocol_allows_it(served, document):
    for path in ("/v2/models/FP32/infer", f"/v2/models/FP32/versions/{VERSION}/infer?a=b"):
        status, headers, body = request(served, "POST", path, document)
        assert (status, headers["content-type"]) == (200, "application/json")
        answer = json.loads(body)
        assert answer["id"] and (answer.get("model_version") or "") == VERSION
        assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]


RAW: list[tuple[str, bytes, list[int], bytes]] = [
    ("FP32", np.array([1, 2, 3], "<f4").tobytes(), [1, 3], np.array([1, 2, 3], "<f4").tobytes()),
    ("FP32", b"", [1, 0], b""),
    ("INT8", b"\xff", [1, 1], b"\xff"),
    ("FP16", np.array([1, 2], "<f2").tobytes(), [1, 2], np.array([1, 2], "<f2").tobytes()),
    ("BF16", b"\x80\x3f", [1, 1], b"\x80\x3f"),
    ("BOOL", b"\x00\x02", [1, 2], b"\x00\x01"),
    ("text", "grün".encode(), [1], struct.pack("<I", 5) + "grün".encode()),
    ("text", b"", [1], struct.pack("<I", 0)),
    ("scalar", np.float32(2.5).tobytes(), [], np.float32(2.5).tobytes()),
]


@pytest.mark.parametrize(("model", "sent", "shape", "got"), RAW)
@pytest.mark.parametrize("pack", [None, gzip.compress, zlib.compress])
def test_raw_mode(served, model, sent, shape, got, pack):
    headers = {"Inference-Header-Content-Length": "0"}
    if pack is not None:
        headers["Content-Encoding"] = "gzip" if pack is gzip.compress else "deflate"
        sent = pack(sent)
    status, answered, body = request(served, "POST", f"/v2/models/{model}/infer", sent, headers)
    assert (status, answered["content-type"]) == (200, "application/octet-stream"), body
    length = int(answered["inference-header-content-length"])
    (output,) = json.loads(body[:length])["outputs"]
    assert output["shape"] == shape and output["parameters"] == {"binary_data_size": len(got)}
    assert body[length:] == got


@pytest.mark.ours
def test_raw_mode_needs_one_input_of_known_shape(served):
    headers = {"Inference-Header-Content-Length": "0"}
    for model, body, said in (
        ("simple", b"1234", "one input"),
        ("mlp", b"1234", "whole number"),
        ("text", b"\xff", "UTF-8"),
    ):
        status, _headers, answer = request(served, "POST", f"/v2/models/{model}/infer", body, headers)
        assert status == 400 and said in json.loads(answer)["error"]


@pytest.mark.parametrize("pack", [None, gzip.compress, zlib.compress])
def test_chunked_bodies(served, pack):
    x = np.arange(5000, dtype="<f4")
    sent = x.tobytes() if pack is None else pack(x.tobytes())
    headers = {"Inference-Header-Content-Length": "0", "Transfer-Encoding": "chunked"}
    if pack is not None:
        headers["Content-Encoding"] = "gzip" if pack is gzip.compress else "deflate"
    chunks = [sent[start : start + 999] for start in range(0, len(sent), 999)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    status, answered, body = request(served, "POST", "/v2/models/FP32/infer", framed, headers)
    assert status == 200 and np.array_equal(
        np.frombuffer(body[int(answered["inference-header-content-length"]) :], "<f4"), x
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_would_rather_speak_http_2(served, chunked):
    """Java's own client asks for an upgrade with every request to an http address (RFC 9110, 7.8: a server may ignore
    it)."""
    x = np.arange(3, dtype="<f4")
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    headers |= {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    sent = x.tobytes()
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
        sent = b"c\r\n" + sent + b"\r\n0\r\n\r\n"
    status, answered, body = request(served, "POST", "/v2/models/FP32/infer", sent, headers)
    assert status == 200 and body[int(answered["inference-header-content-length"]) :] == x.tobytes()


@pytest.mark.ours
@pytest.mark.parametrize("coding", ["gzip", "deflate", "compress"])
def test_transfer_codings_other_than_chunked_are_refused(served, coding):
    headers = {"Transfer-Encoding": coding}
    status, _headers, answer = request(served, "POST", "/v2/models/FP32/infer", b"body", headers)
    assert status == 400 and json.loads(answer)["error"]


@pytest.mark.ours
def test_a_bomb(served):
    bomb = gzip.compress(b"\0" * 50_000_000)
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "0"}
    status, _headers, answer = request(served, "POST", "/v2/models/FP32/infer", bomb, headers)
    assert status == 413 and f"limit of {MAX_BODY}" in json.loads(answer)["error"]


@pytest.mark.ours
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/stats", 404),
        ("GET", "/v2/models/simple/versions/9/stats", 404),
        ("GET", "/v2/models/simple/infer", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/models/simple", 405),
        ("POST", "/v2/repository/index/more", 404),
        ("PUT", "/v2/models/simple/infer", 405),
    ],
)
def test_every_error_is_json_with_its_text(served, method, path, status):
    answered, headers, body = request(served, method, path)
    assert (answered, headers["content-type"]) == (status, "application/json")
    assert list(json.loads(body)) == ["error"] and json.loads(body)["error"]
    assert ("allow" in headers) == (status == 405)


@pytest.mark.ours
def test_answers_other_than_to_infer_come_as_they_are(served):
    headers = {"Accept-Encoding": "gzip, deflate"}
    for method, path in (("POST", "/v2/repository/index"), ("GET", "/v2/models/stats")):
        status, answered, body = request(served, method, path, b"", headers)
        assert status == 200 and "content-encoding" not in answered and json.loads(body)
    _status, answered, body = request(served, "GET", "/metrics", b"", headers)
    assert answered["content-encoding"] == "gzip" and b"nv_inference_count" in gzip.decompress(body)
