"""The Open Inference Protocol over gRPC: by Triton's own unmodified clients (synchronous and asyncio), and by its
generated messages for what they never send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc
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
    foreign,
    values_of,
)

BIG = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# The channels of one process share their connections by default; a case must not depend on the one before.
APART = [*BIG, ("grpc.use_local_subchannel_pool", 1)]


class Aio:
    """The asyncio client, called as if it were the other one."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._make(url))

    @staticmethod
    async def _make(url: str) -> Any:
        return triton_aio.InferenceServerClient(url, channel_args=APART)

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._run(getattr(self._client, name)(*arguments, **options))

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()


@pytest.fixture(params=["sync", "aio"])
def client(served: Target, request: pytest.FixtureRequest) -> Iterator[Any]:
    one: Any = (
        triton.InferenceServerClient(served.grpc, channel_args=APART) if request.param == "sync" else Aio(served.grpc)
    )
    yield one
    one.close()


@pytest.fixture(scope="module")
def channel(served: Target) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc, options=APART) as one:
        yield one


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, datatype: str, values: Any) -> triton.InferInput:
    array = np.asarray(values, NUMPY[datatype])
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def wanted(*names: str, **options: Any) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, **options) for name in names]


def pair() -> list[triton.InferInput]:
    return [tensor("INPUT0", "INT32", FIRST), tensor("INPUT1", "INT32", SECOND)]


# -- Triton's clients -------------------------------------------------------------------------------------------------


def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("simple") and client.is_model_ready("simple", VERSION)


@pytest.mark.ours
def test_a_model_that_is_not_here_is_not_ready(client):
    assert not client.is_model_ready("other") and not client.is_model_ready("simple", "9")


def test_metadata(client):
    document = client.get_server_metadata()
    assert document.name and document.version
    for version in ("", VERSION):
        document = client.get_model_metadata("simple", version)
        assert document.name == "simple" and document.platform
        assert not VERSION or list(document.versions) == [VERSION]
        assert [(one.name, one.datatype, list(one.shape)) for one in document.inputs] == [
            ("INPUT0", "INT32", [1, 16]),
            ("INPUT1", "INT32", [1, 16]),
        ]
        assert [output.name for output in document.outputs] == ["OUTPUT0", "OUTPUT1"]
    (x,) = client.get_model_metadata("FP32").inputs
    assert (x.name, x.datatype, list(x.shape)) == ("x", "FP32", [-1, -1])


@pytest.mark.ours
def test_the_repository(client):
    index = client.get_model_repository_index().models
    assert {one.name for one in index} == set(MODELS)
    assert {(one.version, one.state, one.reason) for one in index} == {(VERSION, "READY", "")}
    client.load_model("simple")
    with pytest.raises(InferenceServerException, match="failed to load 'other'"):
        client.load_model("other")
    with pytest.raises(InferenceServerException, match="config or files cannot be given"):
        client.load_model("simple", config="{}")
    with pytest.raises(InferenceServerException, match="explicit unload is not possible"):
        client.unload_model("simple")
    assert client.is_model_ready("simple")


@pytest.mark.ours
def test_statistics(client):
    def counts() -> tuple[int, int, Any]:
        (model,) = client.get_inference_statistics("mlp", VERSION).model_stats
        return model.inference_count, model.execution_count, model.inference_stats

    rows, runs, stats = counts()
    client.infer("mlp", [tensor("x", "FP32", np.zeros((3, 64)))])
    with pytest.raises(InferenceServerException):
        client.infer("mlp", [tensor("x", "FP32", np.zeros((3, 63)))])
    rows_after, runs_after, after = counts()
    assert (rows_after - rows, runs_after - runs) == (3, 1)
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(after, part).count == getattr(stats, part).count + 1
    everything = client.get_inference_statistics().model_stats
    assert {one.name for one in everything} == set(MODELS)
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_inference_statistics("other")


def test_two_inputs_and_two_outputs(client):
    result = client.infer("simple", pair(), outputs=wanted("OUTPUT1", "OUTPUT0"), request_id="my id")
    assert result.as_numpy("OUTPUT0").tolist() == (FIRST + SECOND).tolist()
    assert result.as_numpy("OUTPUT1").tolist() == (FIRST - SECOND).tolist()
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("simple", VERSION, "my id")
    assert [one.name for one in answer.outputs] == ["OUTPUT1", "OUTPUT0"]
    assert [list(one.shape) for one in answer.outputs] == [[1, 16]] * 2


def test_inputs_in_another_order(client):
    result = client.infer("simple", pair()[::-1])
    assert result.as_numpy("OUTPUT1").tolist() == (FIRST - SECOND).tolist()


def test_only_the_outputs_asked_for(client):
    result = client.infer("simple", pair(), outputs=wanted("OUTPUT1"))
    assert result.as_numpy("OUTPUT0") is None and result.as_numpy("OUTPUT1").shape == (1, 16)
    assert [one.name for one in client.infer("simple", pair()).get_response().outputs] == ["OUTPUT0", "OUTPUT1"]


@pytest.mark.parametrize("rows", [1, 2, 0])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype(client, datatype, rows):
    values = values_of(datatype, rows)
    result = client.infer(datatype, [tensor("x", datatype, values)], outputs=wanted("y"))
    answered = result.as_numpy("y")
    assert answered.shape == values.shape
    if datatype == "BYTES":
        answered = np.array([item.decode() for item in answered.ravel()], np.object_).reshape(rows, 3)
    assert answered.tolist() == values.tolist()
    assert result.get_output("y").datatype == datatype


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


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("size", [4, 20_000])
def test_compression(client, algorithm, size):
    x = np.arange(size, dtype=np.float32).reshape(1, size)
    result = client.infer("FP32", [tensor("x", "FP32", x)], compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("y"), x)


def test_messages_over_four_megabytes(client):
    x = np.arange(1_250_000, dtype=np.float32).reshape(1, -1)
    assert np.array_equal(client.infer("FP32", [tensor("x", "FP32", x)]).as_numpy("y"), x)


def test_strings_as_bytes(client):
    values = np.array([[b"abc", "grün".encode(), b""]], np.object_)
    answered = client.infer("BYTES", [tensor("x", "BYTES", values)]).as_numpy("y")
    assert answered.tolist() == values.tolist()


def test_versions(client):
    assert client.infer("simple", pair(), model_version=VERSION).get_response().model_version == VERSION
    with pytest.raises(InferenceServerException) as caught:
        client.infer("simple", pair(), model_version="9")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.ours
def test_priority_deadline_and_parameters_of_others(client):
    result = client.infer(
        "simple", pair(), priority=1, timeout=5_000_000, client_timeout=LIMIT, parameters={"mine": 1, "too": "x"}
    )
    assert result.as_numpy("OUTPUT0") is not None


ERRORS: list[tuple[str, Callable[[], Any], Any, str, str]] = [
    ("other", pair, [], "NOT_FOUND", "Request for unknown model: 'other'"),
    ("simple", lambda: pair()[:1], [], "INVALID_ARGUMENT", "missing inputs"),
    ("simple", lambda: [*pair(), tensor("more", "INT32", SECOND)], [], "INVALID_ARGUMENT", "unexpected input 'more'"),
    ("simple", lambda: [*pair(), pair()[0]], [], "INVALID_ARGUMENT", "given twice"),
    ("simple", lambda: [pair()[0], tensor("INPUT1", "FP32", SECOND)], [], "INVALID_ARGUMENT", "datatype"),
    ("simple", lambda: [pair()[0], tensor("INPUT1", "INT32", SECOND.T)], [], "INVALID_ARGUMENT", "shape"),
    ("simple", lambda: [pair()[0], tensor("INPUT1", "INT32", SECOND[0])], [], "INVALID_ARGUMENT", "dimensions"),
    ("simple", pair, wanted("OUTPUT2"), "INVALID_ARGUMENT", "unexpected output 'OUTPUT2'"),
    ("simple", pair, wanted("OUTPUT0", class_count=1), "UNIMPLEMENTED", "classification"),
    ("FP32", lambda: [tensor("x", "FP32", np.zeros((1, MAX_BODY // 4)))], [], "RESOURCE_EXHAUSTED", "larger than max"),
]
REFUSED = [case[:4] for case in ERRORS if case[3] in ("INVALID_ARGUMENT", "NOT_FOUND")]


@pytest.mark.parametrize(("model", "inputs", "outputs", "code"), REFUSED)
def test_what_does_not_fit_the_model_is_refused(client, model, inputs, outputs, code):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs(), outputs=outputs or None)
    assert caught.value.status() == f"StatusCode.{code}" and caught.value.message()


@pytest.mark.ours
@pytest.mark.parametrize(("model", "inputs", "outputs", "code", "said"), ERRORS)
def test_errors(client, model, inputs, outputs, code, said):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs(), outputs=outputs or None)
    assert caught.value.status() == f"StatusCode.{code}" and said in caught.value.message()
    assert client.infer("simple", pair()).as_numpy("OUTPUT0") is not None, "the connection goes on"


@pytest.mark.ours
@pytest.mark.parametrize("method", ["get_model_config", "get_trace_settings"])
def test_calls_that_are_not_here_say_so(client, method):
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, method)("simple")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_many_at_once(served):
    import queue

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with triton.InferenceServerClient(served.grpc, channel_args=APART) as one:
        for number in range(64):
            one.async_infer(
                "FP32", [tensor("x", "FP32", [[number]])], callback=lambda result, error: answers.put((result, error))
            )
        results = [answers.get(timeout=LIMIT) for _ in range(64)]
    assert [error for _result, error in results if error] == []
    assert sorted(result.as_numpy("y").item() for result, _error in results) == list(range(64))

    async def together() -> list[float]:
        async with triton_aio.InferenceServerClient(served.grpc, channel_args=APART) as two:
            found = await asyncio.gather(
                *[two.infer("FP32", [tensor("x", "FP32", [[number]])]) for number in range(64)]
            )
            return [result.as_numpy("y").item() for result in found]

    assert asyncio.run(together()) == list(range(64))


# -- by hand ----------------------------------------------------------------------------------------------------------

FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def typed(name: str, datatype: str, shape: list[int], values: Any, field: str = "") -> Any:
    entry = messages.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if values:
        getattr(entry.contents, field or FIELDS[datatype]).extend(values)
    return entry


def ask(model: str, *inputs: Any, **fields: Any) -> Any:
    return messages.ModelInferRequest(model_name=model, inputs=inputs, **fields)


@pytest.mark.parametrize("rows", [1, 2, 0])
@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_are_answered_by_typed_contents(stub, datatype, rows):
    flat = values_of(datatype, rows).ravel().tolist()
    sent = [value.encode() for value in flat] if datatype == "BYTES" else flat
    answer = stub.ModelInfer(ask(datatype, typed("x", datatype, [rows, 3], sent)), timeout=LIMIT)
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [rows, 3])
    assert list(answer.raw_output_contents) == []
    assert list(getattr(output.contents, FIELDS[datatype])) == sent


def test_typed_contents_of_two_inputs(stub):
    first = typed("INPUT0", "INT32", [1, 16], FIRST.ravel().tolist())
    second = typed("INPUT1", "INT32", [1, 16], SECOND.ravel().tolist())
    answer = stub.ModelInfer(ask("simple", first, second, id="x"), timeout=LIMIT)
    assert answer.id == "x"
    sums = {output.name: list(output.contents.int_contents) for output in answer.outputs}
    assert sums == {"OUTPUT0": (FIRST + SECOND).ravel().tolist(), "OUTPUT1": (FIRST - SECOND).ravel().tolist()}


@pytest.mark.ours
def test_every_answer_has_an_id(stub):
    assert stub.ModelInfer(ask("scalar", typed("x", "FP32", [], [1.0])), timeout=LIMIT).id


def raw(name: str, datatype: str, shape: list[int]) -> Any:
    return messages.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)


ONE = np.float32(1).tobytes()
BAD: list[tuple[Any, str]] = [
    (ask("FP32", typed("x", "FP32", [1, 2], [1.0])), "1 elements"),
    (ask("FP32", typed("x", "FP32", [1, 1], [1.0, 2.0])), "2 elements"),
    (ask("FP32", typed("x", "FP32", [-1, -1], [1.0])), "non-negative"),
    (ask("FP32", typed("x", "FP32", [2**62, 4], [])), "overflows"),
    (ask("FP32", typed("x", "FP32", [1, 1], [1.0], "fp64_contents")), "goes into fp32_contents"),
    (ask("INT8", typed("x", "INT8", [1, 1], [128])), "outside the range"),
    (ask("UINT8", typed("x", "UINT8", [1, 1], [256])), "outside the range"),
    (ask("FP16", typed("x", "FP16", [1, 1], [1.0], "fp32_contents")), "raw_input_contents"),
    (ask("BYTES", typed("x", "BYTES", [1, 1], [b"\xff"])), "UTF-8"),
    (ask("FP32", typed("x", "FP32", [1, 1], [1.0]), raw_input_contents=[ONE]), "both"),
    (ask("FP32", raw("x", "FP32", [1, 1]), raw_input_contents=[ONE, ONE]), "all of them or none"),
    (ask("FP32", raw("x", "FP32", [1, 1]), raw_input_contents=[ONE[:3]]), "3 bytes"),
    (ask("FP32"), "non-empty"),
    (ask("", typed("x", "FP32", [1, 1], [1.0])), "model_name"),
]


@pytest.mark.parametrize(("message", "said"), BAD, ids=[said for _message, said in BAD])
def test_messages_that_make_no_sense(stub, message, said):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message, timeout=LIMIT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert foreign() is not None or said in caught.value.details()


@pytest.mark.ours
@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\xff", b"\x2a\x05hello"])
def test_bytes_that_are_no_message(channel, body):
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(body, timeout=LIMIT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.ours
def test_a_bomb(channel, stub):
    """A message that unpacks to more than the limit."""
    body = messages.ModelInferRequest(model_name="FP32", raw_input_contents=[b"\0" * 4 * MAX_BODY]).SerializeToString()
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(body, timeout=LIMIT, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ServerLive(messages.ServerLiveRequest(), timeout=LIMIT).live


@pytest.mark.parametrize(
    ("name", "status"),
    [(b"", b"\x08\x01"), (b"\x0a\x06simple", b"\x08\x01"), (b"\x0a\x1einference.GRPCInferenceService", b"\x08\x01")],
)
@pytest.mark.ours
def test_the_health_protocol(channel, name, status):
    """By its bytes: field 1 is the service, of the answer the status, 1 = SERVING."""
    assert channel.unary_unary("/grpc.health.v1.Health/Check")(name, timeout=LIMIT) == status


@pytest.mark.ours
def test_the_health_of_what_is_not_here(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x05other", timeout=LIMIT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
