"""Our messages against the generated code that Triton's own client brings."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2 as triton

from edgeward_runtime.rpc.messages import inference


def nested(message, name):
    """A message of ours by its name: Triton nests some of them in the message that uses them."""
    found = {}
    waiting = [message]
    while waiting:
        one = waiting.pop()
        found[one.name] = one
        waiting += one.nested_types
    return found.get(name)


def theirs(name):
    for message in triton.DESCRIPTOR.message_types_by_name.values():
        if (found := nested(message, name)) is not None:
            return found
    raise AssertionError(f"Triton has no {name}")


def as_seen_on_the_wire(field):
    kind = field.message_type.name if field.message_type else None
    map_entry = bool(field.message_type and field.message_type.GetOptions().map_entry)
    choice = field.containing_oneof.name if field.containing_oneof else None
    packed = getattr(field, "is_packed", None)
    return field.number, field.type, field.is_repeated, None if map_entry else kind, map_entry, choice, packed


@pytest.mark.parametrize("name", sorted(inference))
def test_names_numbers_and_types_are_those_of_the_protocol(name):
    expected = {field.name: as_seen_on_the_wire(field) for field in theirs(name).fields}
    for field in inference[name].DESCRIPTOR.fields:
        assert as_seen_on_the_wire(field) == expected[field.name], field.name


@pytest.mark.parametrize("name", ["ModelInferRequest", "ModelInferResponse", "InferTensorContents", "InferParameter"])
def test_an_inference_has_every_field_of_the_protocol(name):
    assert {field.name for field in inference[name].DESCRIPTOR.fields} == {field.name for field in theirs(name).fields}
