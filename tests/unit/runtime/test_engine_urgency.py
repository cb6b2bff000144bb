"""What a request says of its haste, within what its job may."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeward_runtime.app import timeout_us
from edgeward_runtime.call import Call
from edgeward_runtime.engine import Engine
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.protocol import urgency


def call() -> Call:
    model: Any = SimpleNamespace()
    return Call(model)


@pytest.mark.parametrize(
    ("top", "asked", "found"),
    [(1, 0, 1), (1, 1, 1), (1, 4, 4), (1, 99, 5), (3, 0, 1), (3, 1, 1), (3, 3, 1), (3, 4, 2), (3, 5, 3), (5, 9, 1)],
)
def test_no_request_is_more_urgent_than_its_job(top: int, asked: int, found: int) -> None:
    engine: Any = Engine(worker=SimpleNamespace())  # type: ignore[arg-type]
    engine.top_class = top
    one = call()
    engine.urgency(one, timeout_us=0, priority=asked)
    assert (one.priority, one.deadline_ns) == (found, 0)
    engine.urgency(one, timeout_us=7, priority=asked)
    assert one.deadline_ns == one.start_ns + 7000


def test_what_the_parameters_say() -> None:
    assert urgency({}) is None is urgency({"timeout": 0, "priority": 0})
    assert urgency({"timeout": 5, "binary_data_output": True}) == (5, 0)
    for wrong in ({"timeout": -1}, {"priority": "1"}, {"priority": True}, {"timeout": 1.5}, {"timeout": 2**64}):
        with pytest.raises(ProtocolError) as caught:
            urgency(wrong)
        assert caught.value.status == 400


def test_a_gateways_header() -> None:
    assert timeout_us(b"250") == 250_000
    assert timeout_us(b"0.0001") == 1
    for nothing in (b"", b"0", b"-1", b"soon", b"nan", b"inf", b"1e300"):
        assert timeout_us(nothing) == 0
