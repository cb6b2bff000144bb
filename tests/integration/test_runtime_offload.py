"""Two real servers, a real connection between them: hard answers go to the bigger model and come back in time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_runtime_serving import Server, publish, row, server
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import mlp, sharpened

SURE, UNSURE = (9.0, 0.0, 0.0, 0.0), (0.3, 0.2, 0.1, 0.0)
BOUND = 0.4  # seconds


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        yield one


@pytest.fixture
def both(tmp_path: Path, source: Source) -> Iterator[tuple[Server, Server]]:
    """The edge's model is softmax(x), the other one's softmax(-9x): sure of the opposite."""
    for name in ("edge", "elsewhere"):
        (tmp_path / name).mkdir()
    with server(tmp_path / "elsewhere") as elsewhere, server(tmp_path / "edge") as edge:
        elsewhere.want(publish(source, "2", sharpened(-9.0)))
        edge.want(publish(source, "1", sharpened(1.0)), offload=asked(elsewhere))
        for one, version in ((elsewhere, "2"), (edge, "1")):
            one.until(lambda one=one, version=version: one.serves(version))
        yield edge, elsewhere


def asked(elsewhere: Server, **more: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{elsewhere.port}/v2/models/m"
    return {"url": url, "budget": {"requests": "20%"}, "latencySeconds": BOUND, **more}


def metric(one: Server, name: str, **labels: str) -> float:
    status, page = one.get("/metrics")
    assert status == 200
    wanted = "".join(sorted(f'{key}="{value}"' for key, value in labels.items()))
    for line in page.splitlines():
        head, _, value = line.rpartition(" ")
        found, _, inner = head.partition("{")
        if found == name and "".join(sorted(inner.rstrip("}").split(","))) == wanted:
            return float(value)
    return 0.0


def outcome(one: Server, why: str, what: str) -> float:
    return metric(one, "edgeward_offload_requests_total", why=why, outcome=what)


def warmed(edge: Server) -> None:
    """So many sure answers that the threshold is known and the budget is full."""
    for _ in range(48):
        status, answer, _ = edge.infer(row(*SURE))
        assert status == 200 and "parameters" not in answer


def top(answer: dict[str, Any]) -> int:
    data = answer["outputs"][0]["data"]
    return data.index(max(data))


def test_hard_answers_are_the_bigger_models_and_sure_ones_our_own(both: tuple[Server, Server]):
    edge, elsewhere = both
    warmed(edge)
    status, answer, _ = edge.infer({**row(*UNSURE), "id": "photo-7"})
    assert status == 200 and answer["id"] == "photo-7"
    assert answer["parameters"] == {"offloaded_to": "m/2"} and top(answer) == 3
    assert (answer["model_name"], answer["model_version"]) == ("m", "1"), "whom the client asked"
    status, answer, _ = edge.infer(row(*SURE))
    assert "parameters" not in answer and top(answer) == 0
    assert outcome(edge, "Hard", "Answered") == 1
    assert metric(edge, "edgeward_offload_answers_total", agree="false") == 1
    assert metric(edge, "edgeward_offload_bytes_total", direction="sent") > 0
    assert metric(elsewhere, "edgeward_requests_total", model="m", version="2", code="200") == 1


def test_the_budget_holds_when_everything_becomes_hard(both: tuple[Server, Server]):
    edge, _elsewhere = both
    warmed(edge)
    offloaded = 0
    for number in range(200):
        status, answer, _ = edge.infer(row(0.3 + number * 1e-4, 0.2, 0.1, 0.0))
        assert status == 200
        offloaded += "parameters" in answer
    assert 10 <= offloaded <= 0.2 * 248 + 8


def test_the_edges_answer_is_never_held_up_by_a_server_that_hangs(both: tuple[Server, Server]):
    edge, elsewhere = both
    warmed(edge)
    edge.infer(row(*UNSURE))  # the way is known
    elsewhere.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            edge.infer(row(*SURE))
        status, answer, _ = edge.infer(row(*UNSURE))
        assert status == 200 and "parameters" not in answer and top(answer) == 0
        assert outcome(edge, "Hard", "Late") == 1
    finally:
        elsewhere.process.send_signal(signal.SIGCONT)


def test_a_server_that_is_gone_is_left_alone_and_found_again(both: tuple[Server, Server], source: Source):
    edge, elsewhere = both
    warmed(edge)
    elsewhere.stop(signal.SIGKILL)

    def down() -> bool:
        for values in [UNSURE, *[SURE] * 8]:
            status, answer, _ = edge.infer(row(*values))
            assert status == 200 and "parameters" not in answer
        return outcome(edge, "Hard", "RouteDown") > 0

    edge.until(down)
    assert outcome(edge, "Hard", "Failed") >= 3
    with server(elsewhere.folder, port=elsewhere.port) as again:
        again.until(lambda: again.serves("2"))

        def back() -> bool:
            # Mostly sure, or what is hard would be the usual and no longer among the hardest.
            for _ in range(8):
                edge.infer(row(*SURE))
            return "parameters" in edge.infer(row(*UNSURE))[1]

        edge.until(back, limit=90.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda elsewhere: {},
        lambda elsewhere: {"offload": asked(elsewhere, budget={"requests": "0%"})},
        lambda elsewhere: {"offload": {**asked(elsewhere), "url": "http://127.0.0.1:1/v2/models/m"}},
    ],
    ids=["switched off", "nothing to spend", "nobody there"],
)
def test_the_job_changes_its_mind(both: tuple[Server, Server], source: Source, change: Callable[[Server], Any]):
    edge, elsewhere = both
    warmed(edge)
    assert "parameters" in edge.infer(row(*UNSURE))[1]
    edge.want(publish(source, "1", sharpened(1.0)), revision=2, **change(elsewhere))
    edge.until(lambda: edge.status()["revision"] == 2)
    warmed(edge)
    status, answer, _ = edge.infer(row(*UNSURE))
    assert status == 200 and "parameters" not in answer


def test_two_servers_that_offload_to_each_other_do_not_play_ball(both: tuple[Server, Server], source: Source):
    edge, elsewhere = both
    elsewhere.want(publish(source, "2", sharpened(-0.1)), revision=2, offload=asked(edge))
    elsewhere.until(lambda: elsewhere.status()["revision"] == 2)
    warmed(edge)
    for _ in range(48):
        elsewhere.infer(row(*SURE))
    before = metric(elsewhere, "edgeward_offload_requests_total", why="Hard", outcome="Answered")
    assert edge.infer(row(*UNSURE))[1]["parameters"] == {"offloaded_to": "m/2"}
    assert metric(elsewhere, "edgeward_offload_requests_total", why="Hard", outcome="Answered") == before


def test_overload_goes_the_same_way(tmp_path: Path, source: Source):
    """A model of some milliseconds, one row at a time, and sixteen clients that want their answer in 20."""
    for name in ("edge", "elsewhere"):
        (tmp_path / name).mkdir()
    with server(tmp_path / "elsewhere") as elsewhere, server(tmp_path / "edge", EDGEWARD_BATCH_ROWS="1") as edge:
        elsewhere.want(publish(source, "2", mlp((4, 8, 4))))
        spilling = {"url": f"http://127.0.0.1:{elsewhere.port}/v2/models/m", "spill": True, "latencySeconds": 0.02}
        edge.want(publish(source, "1", mlp((4, 3000, 3000, 4))), offload=spilling)
        for one, version in ((elsewhere, "2"), (edge, "1")):
            one.until(lambda one=one, version=version: one.serves(version))
        for _ in range(40):
            assert edge.infer(row(*SURE))[0] == 200
        with ThreadPoolExecutor(16) as clients:
            answers = list(clients.map(lambda _: edge.infer(row(*SURE)), range(300)))
        assert {status for status, _answer, _tail in answers} == {200}
        assert any("parameters" in answer for _status, answer, _tail in answers)
        assert outcome(edge, "Spill", "Answered") > 0
