"""The real server with more to do than it can, over real sockets: batches, deadlines, classes, clients that leave or do
not read, answers that no memory holds; and that it opens no connection of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.test_runtime_serving import LIMIT, REPOSITORY, Server, constant_times, row, server
from tests.unit.runtime import onnx_models

HOLD = 4000.0  # trips: a second of run on a fast core, some on a slow one
NO_CONNECT = REPOSITORY / "tests" / "integration" / "no_connect.py"


def trips(*values: float, **parameters: Any) -> dict[str, Any]:
    x = {"name": "x", "datatype": "FP32", "shape": [len(values), 1], "data": list(values)}
    return {"inputs": [x], **({"parameters": parameters} if parameters else {})}


@contextlib.contextmanager
def busy_model(folder: Path, **settings: str) -> Iterator[Server]:
    path = onnx_models.write(folder / "m.onnx", onnx_models.trips())
    with server(folder, str(path), **settings) as one:
        # One run through the worker, so that the model is known to be none for the event loop.
        assert one.infer(trips(20))[0] == 200
        yield one


def metric(one: Server, name: str, **labels: str) -> float:
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    for line in one.get("/metrics")[1].splitlines():
        if line.startswith(name) and line[len(name)] in "{ " and all(label in line for label in wanted):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {name} {labels}")


class Asked:
    """Requests in threads of their own, whose answers are noted in the order in which they came."""

    def __init__(self, one: Server) -> None:
        self.server = one
        self.answers: list[tuple[str, int, Any, dict[str, str]]] = []
        self.sent: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def ask(self, name: str, document: Any, **headers: str) -> None:
        before = metric(self.server, "nv_inference_pending_request_count")

        def run() -> None:
            self.sent[name] = time.monotonic()
            status, answered, body = self.server.request(
                "POST", "/v2/models/m/infer", json.dumps(document).encode(), headers
            )
            self.answers.append((name, status, json.loads(body), answered))

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        self.server.until(lambda: metric(self.server, "nv_inference_pending_request_count") > before)

    def all(self) -> list[tuple[str, int, Any, dict[str, str]]]:
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        return self.answers

    def by_name(self) -> dict[str, tuple[int, Any]]:
        return {name: (status, body) for name, status, body, _headers in self.all()}


def test_a_busy_server_runs_together_what_waits(tmp_path: Path) -> None:
    with busy_model(tmp_path, EDGEWARD_BATCH_ROWS="8") as one:
        assert metric(one, "edgeward_batch_rows", model="m") == 8
        asked = Asked(one)
        asked.ask("hold", trips(HOLD))
        for number in range(5):
            asked.ask(f"{number}", trips(float(number)))
        asked.ask("two", trips(7.0, 8.0))
        found = asked.by_name()
        assert all(status == 200 for status, _body in found.values())
        for number in range(5):
            assert found[f"{number}"][1]["outputs"][0]["data"] == [float(number)]
        assert found["two"][1]["outputs"][0]["data"] == [7.0, 8.0]
        stats = one.get("/v2/models/m/stats")[1]["model_stats"][0]
        assert (stats["inference_count"], stats["execution_count"]) == (9, 3)
        assert {each["batch_size"]: each["compute_infer"]["count"] for each in stats["batch_stats"]} == {1: 2, 7: 1}
        assert metric(one, "nv_inference_exec_count") < metric(one, "nv_inference_count")


def test_deadlines(tmp_path: Path) -> None:
    with busy_model(tmp_path, EDGEWARD_BATCH_ROWS="1") as one:
        asked = Asked(one)
        asked.ask("hold", trips(HOLD))
        # What rows take is known from short runs so far, so these are let in; the run that lasts is longer than both.
        asked.ask("timeout", trips(1.0, timeout=300_000))
        asked.ask("header", trips(1.0), **{"x-envoy-expected-rq-timeout-ms": "300"})
        asked.ask("patient", trips(1.0, timeout=60_000_000))
        found = asked.by_name()
        assert found["timeout"] == found["header"] == (503, {"error": "Request timeout expired"})
        assert found["hold"][0] == found["patient"][0] == 200
        assert metric(one, "edgeward_dropped_total", reason="expired") == 2
        assert metric(one, "nv_inference_exec_count") == 3, "what had expired was not run"
        # Now rows are known to take long: a wait that cannot be met is refused at once.
        asked = Asked(one)
        asked.ask("hold", trips(HOLD))
        status, headers, body = one.request("POST", "/v2/models/m/infer", json.dumps(trips(1.0, timeout=1000)).encode())
        assert (status, int(headers["retry-after"]) >= 1) == (503, True) and b"the wait is about" in body
        assert metric(one, "nv_inference_pending_request_count") == 1, "the run still lasted"
        assert metric(one, "edgeward_dropped_total", reason="refused") == 1
        assert one.infer(trips(1.0, timeout="1"))[0] == 400
        asked.all()


def test_more_urgent_requests_pass(tmp_path: Path) -> None:
    with busy_model(tmp_path, EDGEWARD_BATCH_ROWS="1") as one:
        asked = Asked(one)
        asked.ask("hold", trips(HOLD))
        for name, priority in (("last", 5), ("third", 2), ("second", 1), ("also second", 0)):
            asked.ask(name, trips(300.0, priority=priority), **{"Edgeward-Transfer-Seconds": ""})
        asked.all()
        # When threads get to note an answer says little on a busy machine; the server's own times do.
        ended = {
            name: asked.sent[name] + float(headers["server-timing"].partition("dur=")[2]) / 1000
            for name, _status, _body, headers in asked.answers
            if name != "hold"
        }
        assert sorted(ended, key=lambda name: ended[name]) == ["second", "also second", "third", "last"]


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with busy_model(tmp_path, EDGEWARD_BATCH_ROWS="1", EDGEWARD_QUEUE="2") as one:
        asked = Asked(one)
        asked.ask("hold", trips(HOLD))
        asked.ask("waits", trips(1.0))
        status, headers, body = one.request("POST", "/v2/models/m/infer", json.dumps(trips(1.0)).encode())
        assert (status, b"queue is full" in body, headers["retry-after"].isdigit()) == (503, True, True)
        assert metric(one, "edgeward_dropped_total", reason="full") == 1
        assert [status for _name, status, *_ in asked.all()] == [200, 200]


def test_work_of_clients_that_left_is_not_done(tmp_path: Path) -> None:
    with busy_model(tmp_path, EDGEWARD_BATCH_ROWS="1") as one:
        asked = Asked(one)
        asked.ask("hold", trips(HOLD))
        body = json.dumps(trips(HOLD)).encode()
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", one.port)) as client:
            client.sendall(head + body)
            one.until(lambda: metric(one, "nv_inference_pending_request_count") == 2)
        asked.all()
        one.until(lambda: metric(one, "edgeward_dropped_total", reason="gone") == 1)
        assert metric(one, "nv_inference_exec_count") == 2
        assert metric(one, "edgeward_model_inflight") == 0


def numbers(rows: int, columns: int) -> dict[str, Any]:
    return {"inputs": [{"name": "shape", "datatype": "INT64", "shape": [2], "data": [rows, columns]}]}


def memory(one: Server, field: str) -> float:
    text = Path(f"/proc/{one.process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field + ":"))


def test_answers_that_no_memory_holds(tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "m.onnx", onnx_models.as_large_as_asked())
    with server(tmp_path, str(path), EDGEWARD_MAX_MEMORY_BYTES=str(512 * 2**20)) as one:
        assert one.infer(numbers(2, 3))[1]["outputs"][0]["shape"] == [2, 3]
        # Beyond any memory; beyond the limit.
        for rows, columns in ((100_000, 1_000_000), (30_000, 10_000), (20_000, 10_000)):
            status, document, _ = one.infer(numbers(rows, columns))
            assert (status, "not enough memory" in document["error"]) == (413, True), document
        assert one.infer(numbers(1_000, 1_000))[0] == 200
        assert memory(one, "VmHWM") < 700 and one.process.poll() is None


def test_clients_that_do_not_read_their_answers(tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "m.onnx", onnx_models.as_large_as_asked())
    limit = 24 * 2**20
    with server(tmp_path, str(path), EDGEWARD_MAX_BYTES_IN_FLIGHT=str(limit)) as one, contextlib.ExitStack() as stack:
        text = json.dumps({**numbers(2_000, 1_000), "parameters": {"binary_data_output": True}}).encode()
        body = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % len(text) + text
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", one.port))) for _ in range(12)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(body)
        done = lambda: sum(metric(one, "edgeward_requests_total", code=str(code)) for code in (200,))  # noqa: E731
        one.until(lambda: done() == 12 and metric(one, "nv_inference_pending_request_count") == 0)
        heads = [client.recv(1024, socket.MSG_PEEK).split(b" ")[1] for client in clients]
        assert heads.count(b"200") >= 1 and heads.count(b"503") >= 1 and len(heads) == 12
        assert memory(one, "VmRSS") < 300
        assert one.get("/v2/health/ready")[0] == 200


def test_half_requests_huge_headers_and_rubbish_leave_it_unmoved(tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "m.onnx", constant_times(2))
    with server(tmp_path, str(path)) as one, contextlib.ExitStack() as stack:
        before = memory(one, "VmRSS")
        halves = [
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: 60000000\r\n\r\n{",
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nX: " + b"y" * 60_000,
            b"POST /v2/models/m/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\nabc",
            b"G",
        ]
        for number in range(400):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", one.port)))
            client.sendall(halves[number % len(halves)])
        for wrong in (
            b"\x16\x03\x01\x02\x00" * 20,
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
            b"\r\n" * 5_000 + b"\0",
        ):
            with socket.create_connection(("127.0.0.1", one.port)) as client, contextlib.suppress(OSError):
                client.settimeout(LIMIT)
                client.sendall(wrong)
                answered = client.recv(100)
                assert not answered or answered.split(b" ")[1] in (b"400", b"431")
        assert one.infer(row(1, 2, 3, 4))[1]["outputs"][0]["data"] == [2, 4, 6, 8]
        assert memory(one, "VmRSS") - before < 64


def test_it_connects_to_nobody(tmp_path: Path) -> None:
    """The kernel would kill the process at its first connect, and at its first datagram to an address."""
    probe = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    killed = subprocess.run([sys.executable, NO_CONNECT, sys.executable, "-c", probe], capture_output=True, check=False)
    assert killed.returncode == -31, "SIGSYS: the watch works"
    path = onnx_models.write(tmp_path / "m.onnx", constant_times(2))
    with server(tmp_path, str(path), launcher=[sys.executable, str(NO_CONNECT)], ORT_DISABLE_TELEMETRY="0") as one:
        for _ in range(200):
            assert one.infer(row(1, 2, 3, 4))[0] == 200
        assert one.get("/metrics")[0] == 200
        assert one.stop() == 0


def test_a_large_run_gives_its_memory_back(tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "m.onnx", onnx_models.as_large_as_asked())
    with server(tmp_path, str(path)) as one:
        assert one.infer(numbers(2, 3))[0] == 200
        before = memory(one, "VmRSS")
        text = json.dumps({**numbers(4_000, 8_000), "parameters": {"binary_data_output": True}}).encode()
        status, _headers, body = one.request("POST", "/v2/models/m/infer", text)
        assert status == 200 and len(body) > 128_000_000 and memory(one, "VmHWM") > before + 100
        assert one.infer(numbers(2, 3))[0] == 200
        assert memory(one, "VmRSS") < before + 48
