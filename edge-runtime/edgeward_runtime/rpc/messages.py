"""The protocol's messages, built from the table below when this is imported: no generated code to keep in step.

Names, numbers and types are those of the Open Inference Protocol's gRPC API (package inference) with Triton's
statistics and model_repository extensions, and of grpc.health.v1. A test compares them with those that Triton's client
brings. They live in a pool of their own: in the default one a program that has a client's generated code loaded too
would find every name taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# A message's fields, one after the other: type, name, number. "repeated" before the type; "map T" is a map from strings.
_INFERENCE: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready 1",
    "ModelReadyRequest": "string name 1, string version 2",
    "ModelReadyResponse": "bool ready 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name 1, string version 2, repeated string extensions 3",
    "ModelMetadataRequest": "string name 1, string version 2",
    "TensorMetadata": "string name 1, string datatype 2, repeated int64 shape 3",
    "ModelMetadataResponse": "string name 1, repeated string versions 2, string platform 3,"
    " repeated TensorMetadata inputs 4, repeated TensorMetadata outputs 5",
    "InferParameter": "bool bool_param 1, int64 int64_param 2, string string_param 3, double double_param 4,"
    " uint64 uint64_param 5",
    "InferTensorContents": "repeated bool bool_contents 1, repeated int32 int_contents 2,"
    " repeated int64 int64_contents 3, repeated uint32 uint_contents 4, repeated uint64 uint64_contents 5,"
    " repeated float fp32_contents 6, repeated double fp64_contents 7, repeated bytes bytes_contents 8",
    "InferInputTensor": "string name 1, string datatype 2, repeated int64 shape 3, map InferParameter parameters 4,"
    " InferTensorContents contents 5",
    "InferRequestedOutputTensor": "string name 1, map InferParameter parameters 2",
    "ModelInferRequest": "string model_name 1, string model_version 2, string id 3, map InferParameter parameters 4,"
    " repeated InferInputTensor inputs 5, repeated InferRequestedOutputTensor outputs 6,"
    " repeated bytes raw_input_contents 7",
    "InferOutputTensor": "string name 1, string datatype 2, repeated int64 shape 3, map InferParameter parameters 4,"
    " InferTensorContents contents 5",
    "ModelInferResponse": "string model_name 1, string model_version 2, string id 3, map InferParameter parameters 4,"
    " repeated InferOutputTensor outputs 5, repeated bytes raw_output_contents 6",
    "ModelStatisticsRequest": "string name 1, string version 2",
    "StatisticDuration": "uint64 count 1, uint64 ns 2",
    "InferStatistics": "StatisticDuration success 1, StatisticDuration fail 2, StatisticDuration queue 3,"
    " StatisticDuration compute_input 4, StatisticDuration compute_infer 5, StatisticDuration compute_output 6,"
    " StatisticDuration cache_hit 7, StatisticDuration cache_miss 8",
    "InferBatchStatistics": "uint64 batch_size 1, StatisticDuration compute_input 2, StatisticDuration compute_infer 3,"
    " StatisticDuration compute_output 4",
    "ModelStatistics": "string name 1, string version 2, uint64 last_inference 3, uint64 inference_count 4,"
    " uint64 execution_count 5, InferStatistics inference_stats 6, repeated InferBatchStatistics batch_stats 7",
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats 1",
    "RepositoryIndexRequest": "string repository_name 1, bool ready 2",
    "ModelIndex": "string name 1, string version 2, string state 3, string reason 4",
    "RepositoryIndexResponse": "repeated ModelIndex models 1",
    "ModelRepositoryParameter": "bool bool_param 1, int64 int64_param 2, string string_param 3, bytes bytes_param 4",
    "RepositoryModelLoadRequest": "string repository_name 1, string model_name 2,"
    " map ModelRepositoryParameter parameters 3",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "string repository_name 1, string model_name 2,"
    " map ModelRepositoryParameter parameters 3",
    "RepositoryModelUnloadResponse": "",
}
# Messages whose fields are the alternatives of one choice.
_CHOICES = {"InferParameter": "parameter_choice", "ModelRepositoryParameter": "parameter_choice"}
# The status is an enum in the health protocol; on the wire that is an int32.
_HEALTH = {"HealthCheckRequest": "string service 1", "HealthCheckResponse": "int32 status 1"}
SERVING, NOT_SERVING = 1, 2

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}


def _classes(package: str, table: Mapping[str, str]) -> dict[str, Any]:
    """Message name -> its class."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in table.items():
        _add_message(file, package, name, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in table}


def _add_message(file: Any, package: str, name: str, fields: str) -> None:
    message = file.message_type.add(name=name)
    if name in _CHOICES:
        message.oneof_decl.add(name=_CHOICES[name])
    for text in filter(None, fields.split(", ")):
        *how, kind, field_name, number = text.split()
        field = message.field.add(name=field_name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
        if how:
            field.label = _FIELD.LABEL_REPEATED
        if how == ["map"]:
            entry = message.nested_type.add(name="".join(map(str.capitalize, field_name.split("_"))) + "Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING)
            value = entry.field.add(name="value", number=2, label=_FIELD.LABEL_OPTIONAL)
            _set_type(value, package, kind)
            kind = f"{name}.{entry.name}"
        _set_type(field, package, kind)
        if name in _CHOICES:
            field.oneof_index = 0


def _set_type(field: Any, package: str, kind: str) -> None:
    scalar = _SCALARS.get(kind)
    if scalar is None:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = scalar


inference = _classes("inference", _INFERENCE)
health = _classes("grpc.health.v1", _HEALTH)
