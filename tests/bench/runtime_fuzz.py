"""Broken requests, by the ten thousand, against a real server: does any crash it, get a 5xx, or get no answer?

Three kinds, drawn from one seed: bodies that were valid before something was changed in them (JSON, binary tensors,
raw, gzip, deflate, chunked, sent with right framing, so that each must be answered), broken HTTP (framing and headers
changed too, so that the server may hang up), and gRPC messages. 501 and 503 are honest answers; any other 5xx, no answer
within the limit, a healthy request that fails in between, and the end of the process are crashes.

    python -m tests.bench.runtime_fuzz --seconds 600       # prints fuzz_bodies and fuzz_crashes as JSON
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import http.client
import json
import random
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages

from tests.integration.conformance.target import DATATYPES, LIMIT, NUMPY, Target, ours

HONEST = frozenset({501, 503})
GRPC_CRASHES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED})
HEALTHY_EVERY = 200  # bodies
_MOST_REPORTED = 50
# What breaks parsers: edges of integer types, sizes that overflow a product, wrong types, text that is none.
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
]
VALUES: list[Any] = [
    *NUMBERS, None, True, False, "", "x", "\x00", "☃" * 100, "a" * 5000, 0.5, -0.0, 1e308, 1e-320, [], {}, [[]], [[[]]],
    [None], {"a": {}}, [0] * 1000, "FP32", "BYTES", "NaN",
]  # fmt: skip

PAGES = [
    b"/v2", b"/v2/health/live", b"/v2/health/ready", b"/v2/models", b"/v2/models/FP32", b"/v2/models/FP32/ready",
    b"/v2/models/FP32/stats", b"/v2/models/stats", b"/v2/models/FP32/versions/2026.1", b"/v2/repository/index",
    b"/v2/repository/models/FP32/load", b"/v2/repository/models/FP32/unload", b"/metrics", b"/edgeward/v1/status",
    b"/v2/models/FP32/feedback", b"/edgeward/v1/capture",
]  # fmt: skip


@dataclass
class Report:
    bodies: int = 0
    crashes: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def crash(self, text: str) -> None:
        self.crashes.append(text)


@dataclass(frozen=True)
class Seed:
    model: str
    document: dict[str, Any] | None  # None: raw mode
    tail: bytes


def seeds() -> list[Seed]:
    found = []
    for datatype, (_element, values) in DATATYPES.items():
        shape = [1, len(values)]
        x = {"name": "x", "datatype": datatype, "shape": shape}
        found.append(Seed(datatype, {"inputs": [{**x, "data": values}], "id": "a"}, b""))
        if datatype == "BYTES":
            tail = b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)
        else:
            tail = np.array(values, NUMPY[datatype]).tobytes()
        binary = {**x, "parameters": {"binary_data_size": len(tail)}}
        outputs = [{"name": "y", "parameters": {"binary_data": True}}]
        found.append(Seed(datatype, {"inputs": [binary], "outputs": outputs}, tail))
        found.append(Seed(datatype, {"inputs": [binary], "parameters": {"binary_data_output": True}}, tail))
        if datatype != "BYTES":
            found.append(Seed(datatype, None, tail))
    pair = [
        {"name": f"INPUT{index}", "datatype": "INT32", "shape": [1, 16], "data": list(range(16))} for index in (0, 1)
    ]
    found.append(
        Seed("simple", {"inputs": pair, "outputs": [{"name": "OUTPUT1"}], "parameters": {"timeout": 1000000}}, b"")
    )
    found.append(Seed("text", None, b"hello"))
    found.append(Seed("scalar", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [], "data": [1.5]}]}, b""))
    row = [0.5] * 64
    found.append(Seed("mlp", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": row}]}, b""))
    return found


# -- changes ----------------------------------------------------------------------------------------------------------


def changed_bytes(draw: random.Random, data: bytes) -> bytes:
    """One to four changes: a bit, a byte, a piece removed, doubled or put in."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(found) + 1)
        length = draw.choice((1, 2, 4, 8, 64))
        match draw.randrange(7):
            case 0 if at < len(found):
                found[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(found):
                found[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                del found[at : at + length]
            case 3:
                found[at:at] = found[at : at + length]
            case 4:
                found[at:at] = draw.randbytes(length)
            case 5:
                found[at : at + 8] = struct.pack("<Q", draw.choice(NUMBERS) % 2**64)
            case _:
                del found[at:]
    return bytes(found)


def changed_document(draw: random.Random, document: Any) -> Any:
    """Some value somewhere replaced, removed or doubled."""
    found = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(found))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 2 if isinstance(holder[key], int | float):
                holder[key] = holder[key] + draw.choice(NUMBERS)
            case 3:
                holder[key] = [holder[key]]
            case 4 if isinstance(holder, dict):
                holder[draw.choice(("data", "parameters", "shape", "classification", "x" * 300))] = holder.pop(key)
            case _:
                holder[key] = copy.deepcopy(draw.choice(VALUES))
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value, index
            yield from _places(value[index])


# -- requests ---------------------------------------------------------------------------------------------------------


def well_framed(draw: random.Random, seed: Seed) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a request whose body was changed and whose Content-Length is right."""
    headers: dict[str, str] = {}
    tail = seed.tail if draw.random() < 0.5 else changed_bytes(draw, seed.tail)
    if seed.document is None:
        body, length = tail, 0
    else:
        document = seed.document if draw.random() < 0.2 else changed_document(draw, seed.document)
        text = json.dumps(document).encode()
        if draw.random() < 0.25:
            text = changed_bytes(draw, text)
        body, length = text + tail, len(text)
    if seed.tail or seed.document is None:
        value = str(length)
        if draw.random() < 0.1:
            value = draw.choice([str(number) for number in NUMBERS] + ["", "x", "0x1", "1_0", "+1", " 1", "1.0"])
        headers["Inference-Header-Content-Length"] = value
    match draw.randrange(8):
        case 0:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        case 1:
            body, headers["Content-Encoding"] = zlib.compress(body, 1), "deflate"
        case 2:
            packed = changed_bytes(draw, gzip.compress(body, 1))
            body, headers["Content-Encoding"] = packed, draw.choice(("gzip", "deflate", "br"))
        case _:
            pass
    if draw.random() < 0.1:
        headers["Accept-Encoding"] = draw.choice(("gzip", "deflate", "gzip;q=x", "*;q=0", ","))
    return f"/v2/models/{seed.model}/infer", body, headers


def on_the_wire(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(draw: random.Random, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    size = draw.choice((1, 7, 100, 5000))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join([*lines, "", ""]).encode() + framed + b"0\r\n\r\n"


def page(draw: random.Random) -> bytes:
    """Any of the other addresses, with any method."""
    path = changed_bytes(draw, draw.choice(PAGES)) if draw.random() < 0.3 else draw.choice(PAGES)
    body = json.dumps(changed_document(draw, {"ready": True, "parameters": {}, "id": "a", "label": 1})).encode()
    method = draw.choice((b"GET", b"GET", b"POST", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT"))
    return b"%b %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (method, path, len(body), body)


def message(draw: random.Random, seed: Seed) -> bytes:
    """A ModelInferRequest as bytes, changed in its fields, its tensors or its bytes."""
    request = messages.ModelInferRequest(model_name=seed.model)
    document = seed.document or {"inputs": [{"name": "x", "datatype": seed.model, "shape": [1, 3]}]}
    form = draw.choices(("raw", "typed", "both"), (6, 3, 1))[0]
    for entry in document["inputs"]:
        shape = list(entry["shape"])
        if shape and draw.random() < 0.2:
            shape[draw.randrange(len(shape))] = draw.choice([one for one in NUMBERS if -(2**63) <= one < 2**63])
        datatype = draw.choice(list(DATATYPES)) if draw.random() < 0.1 else entry["datatype"]
        one = request.inputs.add(name=entry["name"], datatype=datatype, shape=shape)
        if form != "raw":
            count = draw.choice((len(entry.get("data", [])), 1, 3))
            if draw.random() < 0.5:
                one.contents.fp32_contents.extend([draw.random() for _ in range(count)])
            else:
                one.contents.int_contents.extend([draw.randrange(-300, 300) for _ in range(count)])
        if form != "typed":
            request.raw_input_contents.append(seed.tail if draw.random() < 0.5 else changed_bytes(draw, seed.tail))
        if draw.random() < 0.2:
            one.parameters["x"].string_param = "y"
    if draw.random() < 0.1:
        request.raw_input_contents.append(changed_bytes(draw, seed.tail))
    if draw.random() < 0.2:
        request.parameters[draw.choice(("timeout", "priority", "x"))].int64_param = draw.choice((-1, 0, 1, 10, 2**62))
    if draw.random() < 0.1:
        request.outputs.add(name=draw.choice(("y", "z", "")))
    body = request.SerializeToString()
    return changed_bytes(draw, body) if draw.random() < 0.4 else body


# -- a run ------------------------------------------------------------------------------------------------------------


class Fuzzer:
    """`alive` says whether the server's process runs."""

    def __init__(self, target: Target, *, seed: int, alive: Callable[[], bool]) -> None:
        self._target = target
        self._draw = random.Random(seed)
        self._alive = alive
        self._seeds = seeds()
        self._connection: http.client.HTTPConnection | None = None
        self._channel = grpc.insecure_channel(target.grpc)
        self._call = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self.report = Report()

    def close(self) -> None:
        self._channel.close()
        if self._connection is not None:
            self._connection.close()

    def run(self, goes_on: Callable[[Report], bool]) -> Report:
        kinds = [self._body] * 5 + [self._wire] * 2 + [self._grpc] * 2
        report = self.report
        while goes_on(report):
            self._draw.choice(kinds)(self._draw.choice(self._seeds))
            report.bodies += 1
            if report.bodies % HEALTHY_EVERY == 0:
                self._healthy()
            if not self._alive():
                report.crash(f"the process ended at body {report.bodies}")
                break
            if len(report.crashes) >= _MOST_REPORTED:
                break
        self._healthy()
        return report

    def _body(self, seed: Seed) -> None:
        path, body, headers = well_framed(self._draw, seed)
        for attempt in (1, 2):
            try:
                status, text = self._post(path, body, headers)
                break
            except (OSError, http.client.HTTPException) as failure:
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                # A connection that was kept may have been closed by the answer before; a new one has no such excuse.
                if attempt == 2:
                    self.report.crash(f"no answer: {failure!r} to {path} {headers} {body[:2000]!r}")
                    return
        self.report.answers[f"rest {status}"] += 1
        if status >= 500 and status not in HONEST:
            self.report.crash(f"{status} {text[:200]!r} to {path} {headers} {body[:2000]!r}")
        elif status != 200 and not _is_error(text):
            self.report.crash(f"{status} without an error's text, {text[:200]!r} to {path} {headers} {body[:2000]!r}")

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._target.host, self._target.port, timeout=LIMIT)
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _wire(self, seed: Seed) -> None:
        path, body, headers = well_framed(self._draw, seed)
        wire = (
            chunked(self._draw, path, body, headers) if self._draw.random() < 0.4 else on_the_wire(path, body, headers)
        )
        if self._draw.random() < 0.2:
            wire = page(self._draw)
        if self._draw.random() < 0.9:
            wire = changed_bytes(self._draw, wire)
        if self._draw.random() < 0.1:
            wire = wire + wire
        port = self._target.port
        if self._draw.random() < 0.05:  # a client at the wrong door
            port = int(self._target.grpc.rpartition(":")[2])
            wire = self._draw.choice((wire, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._draw.randbytes(200)))
        try:
            answer = _exchange(self._target.host, port, wire)
        except TimeoutError:
            self.report.crash(f"neither an answer nor an end: {wire[:2000]!r}")
            return
        except OSError:
            answer = b""
        status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else "none"
        self.report.answers[f"wire {status}"] += 1
        if status.startswith("5") and int(status) not in HONEST and port == self._target.port:
            self.report.crash(f"{status} to {wire[:2000]!r}")

    def _grpc(self, seed: Seed) -> None:
        body = message(self._draw, seed)
        try:
            self._call(body, timeout=LIMIT)
            code = grpc.StatusCode.OK
        except grpc.RpcError as failure:
            code = failure.code()
            if code in GRPC_CRASHES:
                self.report.crash(f"{code} {failure.details()!r} to the message {body[:2000]!r}")
        self.report.answers[f"grpc {code.name}"] += 1

    def _healthy(self) -> None:
        """A good request gets its answer, whatever came before."""
        x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
        try:
            answer = _exchange(
                self._target.host,
                self._target.port,
                on_the_wire("/v2/models/FP32/infer", json.dumps({"inputs": [x]}).encode(), {"Connection": "close"}),
                half_close=False,
            )
        except OSError as failure:
            answer = repr(failure).encode()
        if not answer.startswith(b"HTTP/1.1 200") or b'"data":[1.0,2.0]' not in answer:
            self.report.crash(f"a good request after body {self.report.bodies} got {answer[:300]!r}")


def _exchange(host: str, port: int, wire: bytes, *, half_close: bool = True) -> bytes:
    """What comes back until the server closes. With our side closed after all was sent, nothing that is incomplete is
    waited for; the server may then take us for gone."""
    with socket.create_connection((host, port), timeout=LIMIT) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(wire)
            if half_close:
                one.shutdown(socket.SHUT_WR)
        received = b""
        while piece := one.recv(65536):
            received += piece
        return received


def _is_error(text: bytes) -> bool:
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), str)


def fuzz(*, seed: int, seconds: float = float("inf"), bodies: int | None = None) -> Report:
    """A server of ours under fire for so long or so many bodies."""
    with tempfile.TemporaryDirectory(prefix="edgeward-fuzz-") as folder, ours(Path(folder)) as (target, server):
        fuzzer = Fuzzer(target, seed=seed, alive=lambda: server.process.poll() is None)
        end = time.monotonic() + seconds
        try:
            report = fuzzer.run(lambda so_far: time.monotonic() < end and (bodies is None or so_far.bodies < bodies))
        finally:
            fuzzer.close()
        for line in server.lines():
            if "exception" in line:
                report.crash(f"the server's log: {line['exception'][-600:]}")
        return report


def measure(folder: Path, *, seconds: float, say: Callable[[str], None], seed: int = 1) -> dict[str, Any]:
    """The figures of `make bench-runtime`."""
    folder.mkdir()
    say(f"  {seconds:g} s of broken requests over REST, on the wire and over gRPC")
    report = fuzz(seed=seed, seconds=seconds)
    return {
        "fuzz_bodies": report.bodies,
        "fuzz_crashes": len(report.crashes),
        "fuzz_seconds": round(seconds),
        "fuzz_answers": dict(sorted(report.answers.items())),
        **({"fuzz_first_crash": report.crashes[0]} if report.crashes else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bodies", type=int, help="end after so many")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = fuzz(seed=options.seed, seconds=options.seconds, bodies=options.bodies)
    figures = {
        "fuzz_bodies": report.bodies,
        "fuzz_crashes": len(report.crashes),
        "crashes": report.crashes[:10],
        "answers": dict(sorted(report.answers.items())),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
