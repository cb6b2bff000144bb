import logging
import sys

import orjson
import pytest

from edgeward_runtime.logs import JsonFormatter
from edgeward_runtime.worker import run_error


def line(**fields: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "n", "levelname": "ERROR", "levelno": 40, "msg": "failed", **fields})
    return dict(orjson.loads(JsonFormatter().format(record)))


def test_fields_beside_the_message() -> None:
    assert {"message": "failed", "level": "error", "logger": "n", "model": "m"}.items() <= line(model="m").items()


def test_an_exception_says_where_and_not_what() -> None:
    def inner() -> None:
        raise ValueError("canary of a request")

    try:
        try:
            inner()
        except ValueError as error:
            raise KeyError("canary too") from error
    except KeyError:
        said = str(line(exc_info=sys.exc_info())["exception"])
    assert "canary" not in said.replace('raise ValueError("canary of a request")', "").replace(
        'raise KeyError("canary too")', ""
    )
    assert said.index("KeyError") < said.index("ValueError")
    assert "in inner" in said


def test_no_exception_to_tell_of() -> None:
    assert "exception" not in line(exc_info=(None, None, None))


class EPFail(Exception):
    """Named as none of onnxruntime's that are the client's fault."""


def test_a_failed_run_is_logged_without_what_it_did_not_like(caplog: pytest.LogCaptureFixture) -> None:
    text = "[ONNXRuntimeError] : 11 : EP_FAIL : Non-zero status code returned while running Gather node. Name:'pick' "
    refused = run_error(EPFail(text + "Status Message: idx=81726354 must be within [-3,2]"))
    assert refused.status == 500 and "81726354" in refused.text
    run_error(ValueError("could not take 81726354"))
    said = [vars(record)["error"] for record in caplog.records]
    assert said == [f"EPFail: {text.strip()}", "ValueError"]
