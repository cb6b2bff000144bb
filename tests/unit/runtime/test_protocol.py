from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.protocol import Plans, header_length, parse, respond
from edgeward_runtime.tensors import TensorSpec

INPUTS = {
    "a": TensorSpec(name="a", datatype="FP32", shape=(-1, 2)),
    "b": TensorSpec(name="b", datatype="BYTES", shape=(-1,)),
}
OUTPUTS = {
    "y": TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),
    "z": TensorSpec(name="z", datatype="INT64", shape=(-1,)),
}
A = {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
B = {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["x"]}


def as_json(**fields: Any) -> bytes:
    return orjson.dumps({"inputs": [A, B], **fields})


def test_json_request():
    request = parse(as_json(id="7"), None, INPUTS, OUTPUTS)
    assert request.id == "7" and request.rows == 1
    assert request.feeds["a"].tolist() == [[1.0, 2.0]] and request.feeds["b"].tolist() == ["x"]
    assert request.outputs == [("y", False), ("z", False)]


def test_every_request_without_an_id_gets_another_one():
    ids = {parse(as_json(**extra), None, INPUTS, OUTPUTS).id for extra in ({}, {"id": ""}, {"id": None}, {})}
    assert len(ids) == 4 and all(ids)


def test_binary_and_json_inputs_mix():
    raw = np.array([[3, 4]], "<f4").tobytes()
    a = {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": len(raw)}}
    header = orjson.dumps({"inputs": [B, a]})
    for spaces in range(4):  # the tensor begins at any alignment
        padded = header + b" " * spaces
        request = parse(padded + raw, len(padded), INPUTS, OUTPUTS)
        assert request.feeds["a"].tolist() == [[3.0, 4.0]] and request.feeds["b"].tolist() == ["x"]


def test_zero_size_tensor():
    a = {"name": "a", "datatype": "FP32", "shape": [0, 2], "parameters": {"binary_data_size": 0}}
    header = orjson.dumps({"inputs": [a, {**B, "shape": [0], "data": []}]})
    request = parse(header, len(header), INPUTS, OUTPUTS)
    assert request.feeds["a"].shape == (0, 2) and request.feeds["b"].shape == (0,)


@pytest.mark.parametrize(
    ("parameters", "outputs", "expected"),
    [
        ({}, None, [("y", False), ("z", False)]),
        ({"binary_data_output": True}, None, [("y", True), ("z", True)]),
        ({"binary_data_output": True}, [], [("y", True), ("z", True)]),
        ({}, [{"name": "z"}], [("z", False)]),
        ({}, [{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}], [("z", True), ("y", False)]),
        ({"binary_data_output": True}, [{"name": "z", "parameters": {"binary_data": False}}], [("z", False)]),
    ],
)
def test_which_outputs_and_how(parameters, outputs, expected):
    body = as_json(parameters=parameters, **({} if outputs is None else {"outputs": outputs}))
    assert parse(body, None, INPUTS, OUTPUTS).outputs == expected


@pytest.mark.parametrize(
    ("document", "status", "said"),
    [
        ([], 400, "must be a JSON object"),
        ({}, 400, "inputs must be"),
        ({"inputs": {}}, 400, "inputs must be"),
        ({"inputs": []}, 400, "inputs must be"),
        ({"inputs": [1]}, 400, "must be an object"),
        ({"inputs": [A]}, 400, "missing inputs ['b']"),
        ({"inputs": [A, A, B]}, 400, "given twice"),
        ({"inputs": [A, {**B, "name": "c"}]}, 400, "unexpected input 'c'"),
        ({"inputs": [A, {**B, "name": 3}]}, 400, "unexpected input 3"),
        ({"inputs": [A, {**B, "name": ["b"]}]}, 400, "unexpected input"),
        ({"inputs": [{**A, "datatype": "FP64"}, B]}, 400, "the model takes FP32"),
        ({"inputs": [{**A, "datatype": None}, B]}, 400, "the model takes FP32"),
        ({"inputs": [{**A, "shape": [1, 3]}, B]}, 400, "the model takes [-1, 2]"),
        ({"inputs": [{**A, "shape": [-1, 2]}, B]}, 400, "non-negative"),
        ({"inputs": [{**A, "shape": [2**62, 2]}, B]}, 400, "overflows"),
        ({"inputs": [{k: A[k] for k in ("name", "datatype", "shape")}, B]}, 400, "neither data nor"),
        ({"inputs": [{**A, "parameters": []}, B]}, 400, "parameters must be an object"),
        ({"inputs": [{**A, "parameters": {"binary_data_size": 8}}, B]}, 400, "both data and"),
        ({"inputs": [A, B], "id": 5}, 400, "id must be a string"),
        ({"inputs": [A, B], "parameters": {"binary_data_output": 1}}, 400, "true or false"),
        ({"inputs": [A, B], "outputs": {}}, 400, "outputs must be a list"),
        ({"inputs": [A, B], "outputs": [{"name": "q"}]}, 400, "unexpected output 'q'"),
        ({"inputs": [A, B], "outputs": ["y"]}, 400, "unexpected output"),
        ({"inputs": [A, B], "outputs": [{"name": "y"}, {"name": "y"}]}, 400, "asked for twice"),
        ({"inputs": [A, B], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, 501, "classification"),
    ],
)
def test_bad_requests(document, status, said):
    with pytest.raises(ProtocolError) as caught:
        parse(orjson.dumps(document), None, INPUTS, OUTPUTS)
    assert caught.value.status == status and said in caught.value.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"null", b'{"inputs":' + b"[" * 2000 + b"]" * 2000 + b"}", b"[" * 100_000]
)
def test_bodies_that_are_no_json_object(body):
    with pytest.raises(ProtocolError) as caught:
        parse(body, None, INPUTS, OUTPUTS)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("size", "tail", "with_header", "said"),
    [
        (8, 8, False, "header is missing"),
        (8, 7, True, "7 bytes of the body are left"),
        (8, 9, True, "left over"),
        (7, 7, True, "needs 8"),
        (-1, 0, True, "non-negative"),
        ("8", 8, True, "non-negative"),
        (True, 1, True, "non-negative"),
        (2**70, 8, True, "are left"),
    ],
)
def test_bad_binary_sizes(size, tail, with_header, said):
    a = {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    text = (
        orjson.dumps({"inputs": [a, B]})
        if size != 2**70
        else orjson.dumps({"inputs": [a | {"parameters": {"binary_data_size": 2**53}}, B]})
    )
    with pytest.raises(ProtocolError) as caught:
        parse(text + b"\0" * tail, len(text), INPUTS, OUTPUTS) if with_header else parse(text, None, INPUTS, OUTPUTS)
    assert caught.value.status == 400 and said in caught.value.text


@pytest.mark.parametrize(
    ("value", "status"),
    [(b"", 400), (b"x", 400), (b"-1", 400), (b"+1", 400), (b"1_0", 400), (b"101", 400), (b"9" * 40, 400)],
)
def test_broken_header_length(value, status):
    with pytest.raises(ProtocolError) as caught:
        header_length(value, 100)
    assert caught.value.status == status


def test_header_length():
    assert header_length(None, 5) is None
    assert header_length(b"100", 100) == 100
    assert header_length(b"0", 100) == 0


def test_raw_mode():
    outputs = {**OUTPUTS, "w": TensorSpec(name="w", datatype="BYTES", shape=(-1,))}
    raw = np.array([[1, 2], [3, 4]], "<f4")
    request = parse(raw.tobytes(), 0, {"a": INPUTS["a"]}, outputs, {})
    assert request.feeds["a"].tolist() == raw.tolist() and request.rows == 2 and request.id
    assert request.outputs == [("y", True), ("z", True), ("w", True)] and request.names == ["y", "z", "w"]
    text = parse("grün".encode(), 0, {"b": INPUTS["b"]}, outputs)
    assert text.feeds["b"].tolist() == ["grün"]


@pytest.mark.parametrize(
    ("names", "body", "said"),
    [("ab", b"1234", "one input"), ("", b"1234", "one input"), ("a", b"1234", "whole number"), ("b", b"\xff", "UTF-8")],
)
def test_raw_bodies_that_do_not_fit(names, body, said):
    with pytest.raises(ProtocolError) as caught:
        parse(body, 0, {name: INPUTS[name] for name in names}, OUTPUTS)
    assert caught.value.status == 400 and said in caught.value.text


def test_a_raw_body_of_a_fixed_shape_has_its_size():
    fixed = {"a": TensorSpec(name="a", datatype="INT32", shape=(1, 2))}
    assert parse(b"\1\0\0\0\2\0\0\0", 0, fixed, OUTPUTS).feeds["a"].tolist() == [[1, 2]]
    with pytest.raises(ProtocolError, match="got 12 bytes"):
        parse(b"\0" * 12, 0, fixed, OUTPUTS)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_body_crashes_the_parser(body, length):
    with pytest.raises(ProtocolError):
        parse(body, min(length, len(body)), INPUTS, OUTPUTS)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), JSON)
def test_no_field_value_crashes_the_parser(field, value):
    body = orjson.dumps({"inputs": [{**A, field: value}, B]})
    try:
        request = parse(body, None, INPUTS, OUTPUTS)
    except ProtocolError as error:
        assert error.status == 400
    else:
        assert request.feeds["a"].dtype == np.float32


def answer(outputs: list[tuple[str, bool]], tensors: list[Any]) -> tuple[dict[str, Any], bytes]:
    request = parse(as_json(id="i"), None, INPUTS, OUTPUTS)
    request.outputs = outputs
    body, length = respond(model="m", version="2", request=request, specs=OUTPUTS, tensors=tensors)
    return orjson.loads(body[:length]), b"" if length is None else body[length:]


def test_answer_names_the_version_and_echoes_the_id():
    document, rest = answer([("y", False)], [np.ones((1, 2), np.float32)])
    y = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}
    assert document == {"model_name": "m", "model_version": "2", "id": "i", "outputs": [y]} and rest == b""


def test_answer_mixes_binary_and_json():
    z, y = np.array([5, 6], np.int64), np.array([[1, 2]], np.float32)
    document, rest = answer([("z", True), ("y", False)], [z, y])
    assert document["outputs"][0] == {
        "name": "z",
        "datatype": "INT64",
        "shape": [2],
        "parameters": {"binary_data_size": 16},
    }
    assert document["outputs"][1]["data"] == [1.0, 2.0] and rest == z.tobytes()


def test_a_header_that_comes_again_means_the_same():
    inputs = {"a": INPUTS["a"]}
    plans: Plans = {}
    a = {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    header = orjson.dumps({"inputs": [a], "parameters": {"binary_data_output": True}, "outputs": [{"name": "y"}]})
    ids, answers = set(), []
    for number in range(4):
        values = np.array([[number, 7]], "<f4")
        request = parse(header + values.tobytes(), len(header), inputs, OUTPUTS, plans)
        assert request.feeds["a"].tolist() == values.tolist()
        assert (request.outputs, request.names, request.rows) == ([("y", True)], ["y"], 1)
        ids.add(request.id)
        # The third answer has another shape than the ones before.
        tensor = np.full((1 + (number == 2), 2), number, np.float32)
        body, length = respond(model="m", version="2", request=request, specs=OUTPUTS, tensors=[tensor])
        document = orjson.loads(body[:length])
        assert document["id"] == request.id and body[length:] == tensor.tobytes()
        answers.append(document["outputs"])
    assert len(plans) == 1 and len(ids) == 4
    y = {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    assert answers == [[y], [y], [{**y, "shape": [2, 2], "parameters": {"binary_data_size": 16}}], [y]]


@pytest.mark.parametrize("tail", [0, 7, 9, 16])
def test_a_known_header_with_another_number_of_bytes(tail):
    inputs = {"a": INPUTS["a"]}
    plans: Plans = {}
    a = {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    header = orjson.dumps({"inputs": [a]})
    parse(header + b"\0" * 8, len(header), inputs, OUTPUTS, plans)
    with pytest.raises(ProtocolError):
        parse(header + b"\0" * tail, len(header), inputs, OUTPUTS, plans)


def test_headers_with_an_id_or_data_are_not_remembered_and_the_rest_is_bounded():
    plans: Plans = {}
    a = {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    for document in ({"inputs": [a, B]}, {"inputs": [a], "id": "x"}):
        header = orjson.dumps(document)
        inputs = {one["name"]: INPUTS[one["name"]] for one in document["inputs"]}
        assert parse(header + b"\0" * 8, len(header), inputs, OUTPUTS, plans).plan is None
    for spaces in range(300):
        header = orjson.dumps({"inputs": [a]}) + b" " * spaces
        parse(header + b"\0" * 8, len(header), {"a": INPUTS["a"]}, OUTPUTS, plans)
    assert 0 < len(plans) <= 64


def test_a_record_may_come_instead_of_the_inputs_where_the_model_takes_one():
    record = {"record": TensorSpec("record", "UINT8", (-1,))}
    body = orjson.dumps({"inputs": [{"name": "record", "datatype": "UINT8", "shape": [3], "data": [1, 2, 255]}]})
    got = parse(body, None, INPUTS, OUTPUTS, {}, record)
    assert got.feeds["record"].tobytes() == b"\1\2\xff"
    with pytest.raises(ProtocolError, match="unexpected input 'record'"):
        parse(body, None, INPUTS, OUTPUTS, {})
    assert set(parse(as_json(), None, INPUTS, OUTPUTS, {}, record).feeds) == {"a", "b"}
    for entries in ([{"name": []}], [{"name": {}}], [3], {}, [], [{}]):
        with pytest.raises(ProtocolError):
            parse(orjson.dumps({"inputs": entries}), None, INPUTS, OUTPUTS, {}, record)


def test_notes_become_the_answers_parameters():
    request = parse(as_json(outputs=[{"name": "z"}]), None, INPUTS, OUTPUTS)
    body, _length = respond(
        model="m", version="1", request=request, specs=OUTPUTS, tensors=[np.array([1])], notes={"offloaded_to": "l/2"}
    )
    assert orjson.loads(body)["parameters"] == {"offloaded_to": "l/2"}


def test_what_a_request_says_of_itself_is_kept_also_for_a_header_seen_before():
    spec = {"a": INPUTS["a"]}
    header = orjson.dumps(
        {
            "parameters": {"source": "cam-1"},
            "inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
        }
    )
    plans: Plans = {}
    for _ in range(2):
        got = parse(header + b"\0" * 8, len(header), spec, OUTPUTS, plans)
        assert got.parameters == {"source": "cam-1"}
    assert len(plans) == 1


def test_a_remembered_header_names_the_version_that_answers():
    """A canary answers requests that were parsed with the plans of the version beside it."""
    specs = {"x": TensorSpec("x", "FP32", (1, 2))}, {"y": TensorSpec("y", "FP32", (1, 2))}
    document = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}],
        "parameters": {"binary_data_output": True},
    }
    text = orjson.dumps(document)
    plans: Plans = {}
    named = []
    for version in ("1", "1", "2", "2", "1"):
        request = parse(text + bytes(8), len(text), *specs, plans)
        body, length = respond(
            model="m", version=version, request=request, specs=specs[1], tensors=[np.zeros((1, 2), np.float32)]
        )
        named.append(orjson.loads(body[:length])["model_version"])
    assert named == ["1", "1", "2", "2", "1"] and len(plans) == 1
