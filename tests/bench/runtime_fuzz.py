"""Bodies that are wrong in every way a generator finds, over real sockets to a real server with a model of each datatype.

A crash is: an answer of 500, no answer at all, a server that does not answer a right request afterwards, or one that
ended. Each body is made from a right one by some changes drawn with a fixed seed, so that a crash can be made again.
"""

from __future__ import annotations

import copy
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.runtime_load import parts
from tests.integration.conformance.target import DATATYPES, ours

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1.5, 1e308, "", "a", "\u0000", "é" * 50, [], {}, [[]],
    [[[[[[[[]]]]]]]], [1, "a"], {"a": 1}, [None], "9" * 400, [0] * 300, -0.0, "NaN", [2**62, 4], [2**40, 2**40],
)  # fmt: skip
KEYS = (
    "id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "binary_data",
    "binary_data_output", "timeout", "priority", "classification", "sequence_id",
)  # fmt: skip


def right(draw: random.Random) -> tuple[str, dict[str, Any], bytes]:
    """A model, a document that it takes, and the bytes behind it."""
    datatype = draw.choice(sorted(DATATYPES))
    values = DATATYPES[datatype][1]
    x: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": [1, len(values)], "data": list(values)}
    document: dict[str, Any] = {"inputs": [x]}
    if draw.random() < 0.3:
        document["id"] = "a"
    if draw.random() < 0.3:
        document["outputs"] = [{"name": "y", "parameters": {"binary_data": draw.random() < 0.5}}]
    if draw.random() < 0.2:
        document["parameters"] = {"timeout": draw.randrange(10**7), "priority": draw.randrange(9)}
    tail = b""
    if draw.random() < 0.4:
        del x["data"]
        tail = draw.randbytes(draw.choice((0, 1, 3, 6, 12, 24, 25, 100)))
        x["parameters"] = {"binary_data_size": len(tail)}
    return datatype, document, tail


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in it."""
    found: list[tuple[Any, Any]] = []
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        found.append((document, key))
        found += places(value)
    return found


def _value(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(VALUES))


def changed(draw: random.Random, document: Any) -> None:
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        container, key = draw.choice(places(document) or [({}, None)])
        match draw.randrange(5):
            case 0 | 1:
                container[key] = _value(draw)
            case 2 if isinstance(container, dict):
                container[draw.choice(KEYS)] = container.pop(key, None)
            case 3 if isinstance(container, dict):
                container[draw.choice(KEYS)] = _value(draw)
            case 4 if isinstance(container, list):
                container += [_value(draw)] * draw.randrange(4)


def message(draw: random.Random) -> bytes:
    model, document, tail = right(draw)
    changed(draw, document)
    text = json.dumps(document, ensure_ascii=draw.random() < 0.9).encode(errors="replace")
    length = len(text)
    if draw.random() < 0.25:
        spoiled = bytearray(text)
        for _ in range(draw.randrange(1, 6)):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        text = bytes(spoiled[: draw.randrange(len(spoiled) + 1)] if draw.random() < 0.3 else spoiled)
    body = text + tail
    headers = [f"Content-Length: {len(body)}"]
    if tail or draw.random() < 0.2:
        said = draw.choice((length, length, length, length + 1, 0, 2**40, -1, "x"))
        headers.append(f"Inference-Header-Content-Length: {said}")
    if draw.random() < 0.03:
        headers.append(f"Content-Encoding: {draw.choice(('gzip', 'deflate', 'br'))}")
    if draw.random() < 0.05:
        headers.append(f"Content-Type: {draw.choice(('image/jpeg', 'text/csv', 'application/json'))}")
    name = model if draw.random() < 0.98 else "none"
    lines = [f"POST /v2/models/{name}/infer HTTP/1.1", "Host: m", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def measure(folder: Path, *, seconds: float, say: Callable[[str], None], seed: int = 1) -> dict[str, Any]:
    folder.mkdir()
    draw = random.Random(seed)
    codes: Counter[int] = Counter()
    bodies = crashes = 0
    first = ""
    with ours(folder) as (target, server):
        one: socket.socket | None = None
        begin = told = time.monotonic()
        while time.monotonic() - begin < seconds:
            request = message(draw)
            bodies += 1
            for attempt in (1, 2):
                if one is None:
                    one = socket.create_connection((target.host, target.port), timeout=30)
                    attempt = 2
                code, closed = _ask(one, request)
                if closed:
                    one.close()
                    one = None
                if code is not None or attempt == 2:
                    break  # a connection that the answer before closed is opened anew once
            codes[code or 0] += 1
            if code is None or code == 500:
                crashes += 1
                first = first or f"body {bodies}: {code} {request[:300]!r}"
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(f"  {bodies} bodies, {crashes} crashes")
        if one is not None:
            one.close()
        alive = server.process.poll() is None and server.get("/v2/health/ready")[0] == 200
    return {
        "fuzz_bodies": bodies,
        "fuzz_crashes": crashes + (0 if alive else 1),
        "fuzz_seconds": round(seconds),
        "fuzz_answers": {str(code): count for code, count in sorted(codes.items())},
        **({"fuzz_first_crash": first} if first else {}),
    }


def _ask(one: socket.socket, request: bytes) -> tuple[int | None, bool]:
    """The answer's status, None if the connection ended without one, and whether it has ended."""
    data = b""
    try:
        one.sendall(request)
        while parts(data) is None:
            more = one.recv(1 << 20)
            if not more:
                return None, True
            data += more
    except OSError:
        return None, True
    return int(data[9:12]), b"connection: close" in data.partition(b"\r\n\r\n")[0]
