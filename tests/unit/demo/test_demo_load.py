"""Clients under load: whatever a server answers is counted, and no client is lost silently."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.demo import rollout
from tests.demo.kube import StoryError
from tests.demo.models import ModelFile
from tests.demo.rollout import Load, Tally

SCORES = np.array([[0.1, 0.9]], np.float32)
HEAD = {
    "model_name": "file-sorter",
    "model_version": "1",
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2]}],
}
RIGHT = (HEAD, SCORES.tobytes())


class Server:
    """Answers 200 with a head and tensor bytes that can be changed at any time."""

    def __init__(self) -> None:
        self.answer: tuple[Any, bytes] = RIGHT
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                # Looked at once: an answer of two halves has another length than it says, and its client waits for the rest.
                given, body = outer.answer
                head = given if isinstance(given, bytes) else json.dumps(given).encode()
                self.send_response(200)
                self.send_header("Inference-Header-Content-Length", str(len(head)))
                self.send_header("Content-Length", str(len(head) + len(body)))
                self.end_headers()
                self.wfile.write(head + body)

            def log_message(self, *given: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    threading.Thread(target=one.http.serve_forever, daemon=True).start()
    yield one
    one.http.shutdown()
    one.http.server_close()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def load(server: Server, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setattr(rollout, "reference", lambda model, tensors: dict.fromkeys(tensors, SCORES))
    versions = tuple(
        ModelFile(name="file-sorter", version=text, path=Path(text), digest="", size=0) for text in ("1", "2")
    )
    questions = {"a text": np.frombuffer(b"some text", np.uint8)}
    return Load(
        "file-sorter",
        [server.url],
        questions,
        ("binary", "text"),
        expected={"a text": "text"},
        versions=(versions[0], versions[1]),
        threads=2,
        tally=tally,
    )


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"not json", SCORES.tobytes()),
        ({"model_name": "file-sorter"}, SCORES.tobytes()),
        ({**HEAD, "outputs": []}, SCORES.tobytes()),
        ({**HEAD, "outputs": [{**HEAD["outputs"][0], "datatype": "STRING"}]}, SCORES.tobytes()),  # type: ignore[dict-item]
        (HEAD, SCORES.tobytes()[:4]),
        (HEAD, b"xyz"),
        ([], b""),
    ],
)
def test_a_malformed_answer_is_a_failed_request_and_the_client_asks_on(
    server: Server, load: Load, tally: Tally, head: Any, body: bytes
) -> None:
    with load:
        load.go_on(seconds=0, answers=4)
        server.answer = head, body
        load.go_on(seconds=0, answers=6)
        server.answer = RIGHT
        load.go_on(seconds=0, answers=6)
    seen = load.seen()
    assert len(seen.failed) >= 2
    assert seen.questions[-1].problem == "", "the same clients ask on when the server is well again"
    assert tally.failed == len(seen.failed)


def test_right_answers_are_no_failures(load: Load, tally: Tally) -> None:
    assert tally.failed is None
    with load:
        load.go_on(seconds=0, answers=20)
    assert load.seen().failed == ()
    assert tally.failed == 0


def test_failures_are_counted_when_the_story_ends_with_an_error(server: Server, load: Load, tally: Tally) -> None:
    server.answer = b"{", SCORES.tobytes()
    with pytest.raises(StoryError, match="elsewhere"), load:
        load.go_on(seconds=0, answers=4)
        raise StoryError("elsewhere")
    assert tally.failed is not None
    assert tally.failed >= 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_client_that_is_lost_is_an_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    real = load._one
    killed = threading.Event()

    def one(client: Any, text: str) -> Any:
        if not killed.is_set():
            killed.set()
            raise MemoryError
        return real(client, text)

    monkeypatch.setattr(load, "_one", one)
    with pytest.raises(StoryError, match="1 of 2 clients"), load:
        load.go_on(seconds=0, answers=4)
