"""The REST side against its own OpenAPI document, by requests that schemathesis draws from it: what the document allows
and what it does not. The same requests in every run."""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.cluster.paths import REPOSITORY
from tests.integration.conformance.target import LIMIT, VERSION, Target, ours

DOCUMENT = json.loads((REPOSITORY / "edge-runtime" / "contract" / "openapi.json").read_text())


def drawn(modes: list[GenerationMode], **schemas: Any) -> Any:
    """The document, with names that exist, so that most requests get further than a 404, and one that does not; with
    these schemas narrower than they are."""
    document = copy.deepcopy(DOCUMENT)
    names = ["FP32"] if schemas else ["FP32", "BYTES", "INT64", "mlp", "simple", "other"]
    document["components"]["parameters"]["model"]["schema"] = {"enum": names}
    document["components"]["parameters"]["version"]["schema"] = {"enum": [VERSION] if schemas else [VERSION, "9"]}
    document["components"]["schemas"] |= schemas
    for path in document["paths"].values() if schemas else ():
        if "requestBody" in path.get("post", {}):  # plain JSON, with none of the headers that say otherwise
            path["post"]["parameters"] = []
            path["post"]["requestBody"]["content"].pop("application/octet-stream", None)
    found = schemathesis.openapi.from_dict(document)
    found.config.generation.update(modes=modes)
    return found


# A row that the model FP32 takes, to see the document's answers and not only its errors.
ROW = {
    "type": "object",
    "required": ["name", "datatype", "shape", "data"],
    "properties": {
        "name": {"const": "x"},
        "datatype": {"const": "FP32"},
        "shape": {"const": [1, 2]},
        "data": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "number", "minimum": -9, "maximum": 9},
        },
    },
    "additionalProperties": False,
}
REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": ROW},
        "outputs": {"type": "array", "maxItems": 1, "items": {"const": {"name": "y"}}},
    },
}
allowed = drawn([GenerationMode.POSITIVE])
refused = drawn([GenerationMode.NEGATIVE])
fitting = drawn([GenerationMode.POSITIVE], InferRequest=REQUEST)
HONEST = {501, 503}  # answers that are in the protocol and no fault of the server
# A request that the document allows may still not fit the model, and what it does not know is ignored as the protocol
# wants it: neither what should be taken nor what should be refused can be told from the document.
LEFT_OUT = [checks.positive_data_acceptance, checks.negative_data_rejection]
SETTINGS = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with ours(tmp_path_factory.mktemp("openapi")) as (target, _server):
        yield target


def validate(served: Target, case: Any) -> int:
    response = case.call(base_url=f"http://{served.rest}")
    excluded = [*LEFT_OUT, *([not_a_server_error] if response.status_code in HONEST else [])]
    case.validate_response(response, excluded_checks=excluded)
    return int(response.status_code)


@allowed.parametrize()
@SETTINGS
def test_what_the_document_allows(served, case):
    validate(served, case)


@refused.include(method="POST").parametrize()
@SETTINGS
def test_what_the_document_does_not_allow(served, case):
    validate(served, case)


@fitting.include(operation_id=["infer", "inferVersion"]).parametrize()
@SETTINGS
def test_requests_that_fit_the_model(served, case):
    assert validate(served, case) == 200


def test_every_address_of_the_document_is_there(served):
    for path, methods in DOCUMENT["paths"].items():
        for method in methods.keys() & {"get", "post"}:
            connection = http.client.HTTPConnection(served.host, served.port, timeout=LIMIT)
            connection.request(method.upper(), path.format(model="FP32", version=VERSION))
            answer = connection.getresponse()
            assert answer.status in (200, 400, 501), path  # 501: feedback, where nothing is kept
            assert "no such path" not in answer.read().decode(), path
            connection.close()
