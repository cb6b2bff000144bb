"""Sums of counters over looks, pods and processes: nothing twice, and nothing lost that was counted once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.agent.counters import MOST_DIGESTS, Looked, Tally, read
from edgeward.api.assignment import Counters
from edgeward.fleet.traffic import LATENCY_BOUNDS

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SINCE = "2027-01-01T00:00:00Z"


def counted(requests: int = 0, errors: int = 0, **more: Any) -> dict[str, Any]:
    """A runtime's counters: every answered request took 20 ms."""
    counts = [0] * (len(LATENCY_BOUNDS) + 1)
    counts[LATENCY_BOUNDS.index(0.025)] = requests - errors
    latency = {"bounds": list(LATENCY_BOUNDS), "counts": counts, "sum": round((requests - errors) * 0.02, 6)}
    return {"requests": requests, "errors": errors, "latency": latency, **more}


def mirrored(*counts: int) -> dict[str, Any]:
    histogram = {"bounds": [0.0, 0.5, 0.9, 0.95, 0.99], "counts": list(counts), "sum": float(counts[-1])}
    of = {"requests": sum(counts), "agreed": counts[-1], "failed": counts[0], "dropped": 3}
    return {"mirror": {**of, "agreement": histogram}}


def drifted(psi: float, rows: int) -> dict[str, Any]:
    return {"drift": {"psi": psi, "ks": 0.1, "of": "Input", "name": "x", "rows": rows, "reference": "Artifact"}}


def answer(*models: tuple[str, dict[str, Any] | None], started: str = "", state: str = "Serving") -> dict[str, Any]:
    entries = [
        {
            "name": "m",
            "version": digest[7],
            "digest": digest,
            "state": state,
            "serving": state == "Serving",
            **({"counters": counters} if counters is not None else {}),
        }
        for digest, counters in models
    ]
    return {"contract": 1, "revision": 1, "models": entries, **({"started": started} if started else {})}


def a_pod(uid: str = "p", said: dict[str, Any] | None = None, **more: Any) -> Looked:
    return Looked(uid=uid, answer=said, **more)


def by_digest(tally: Tally) -> dict[str, dict[str, Any]]:
    return {item["digest"]: item for item in tally.counters()}


def histograms(tally: Tally, digest: str) -> dict[str, tuple[list[str], list[int], str]]:
    return {
        item["name"]: (item["bounds"], item["counts"], item["sum"]) for item in by_digest(tally)[digest]["histograms"]
    }


def requests(tally: Tally, digest: str) -> tuple[int, int, int]:
    item = by_digest(tally)[digest]
    return item["requests"], item["errors"], item["restarts"]


def test_counting_begins_with_the_first_look_and_a_version_that_comes_later_counts_from_its_beginning() -> None:
    tally = Tally()
    tally.look([a_pod(said=answer((OLD, counted(1000, 5))))], at=10)
    assert requests(tally, OLD) == (0, 0, 0)
    tally.look([a_pod(said=answer((OLD, counted(1010, 6)), (NEW, counted(4, 1))))], at=20)
    tally.look([a_pod(said=answer((OLD, counted(1020, 6)), (NEW, counted(7, 1))))], at=30)
    assert requests(tally, OLD) == (20, 1, 0) and requests(tally, NEW) == (7, 1, 0)
    _, latency, seconds = histograms(tally, NEW)["Latency"]
    assert sum(latency) == 6 and latency[LATENCY_BOUNDS.index(0.025)] == 6 and float(seconds) == pytest.approx(0.12)
    assert by_digest(tally)[NEW]["at"] == "1970-01-01T00:00:30Z"


def test_a_look_without_an_answer_is_made_good_at_the_next_and_makes_no_report_newer() -> None:
    tally = Tally()
    tally.look([a_pod(said=answer((OLD, counted(10))))], at=10)
    tally.look([a_pod()], at=20)
    assert requests(tally, OLD) == (0, 0, 0) and by_digest(tally)[OLD]["at"] == "1970-01-01T00:00:10Z"
    tally.look([a_pod(said=answer((OLD, counted(25))))], at=30)
    assert requests(tally, OLD) == (15, 0, 0) and by_digest(tally)[OLD]["at"] == "1970-01-01T00:00:30Z"


def test_a_pod_that_was_silent_when_counting_began_counts_from_its_first_answer() -> None:
    tally = Tally()
    tally.look([a_pod(said=None, running=True), a_pod("starts", running=False)], at=10)
    both = [a_pod(said=answer((OLD, counted(500)))), a_pod("starts", answer((OLD, counted(3))))]
    tally.look(both, at=20)
    assert requests(tally, OLD) == (3, 0, 0), "the one that had not started then did all of it since"


@pytest.mark.parametrize("started", [True, False])
def test_a_process_that_begins_anew_loses_nothing_that_was_counted(started: bool) -> None:
    """Without the process's start in the answer (an older runtime) a counter that fell tells it."""

    def said(requests: int, process: int) -> dict[str, Any]:
        return answer((OLD, counted(requests)), started=f"2027-01-01T00:00:0{process}Z" if started else "")

    tally = Tally()
    tally.look([a_pod(said=said(100, 1))], at=10)
    tally.look([a_pod(said=said(140, 1))], at=20)
    tally.look([a_pod(said=said(6, 2))], at=30)
    assert requests(tally, OLD) == (46, 0, 0)
    tally.look([a_pod(said=said(9, 2), restarts=1)], at=40)
    assert requests(tally, OLD) == (49, 0, 1), "the kubelet told of it later"
    tally.look([a_pod(said=said(900, 3), restarts=1)], at=50)
    assert requests(tally, OLD) == ((949, 0, 1) if started else (940, 0, 1)), "a start tells what a sum alone cannot"


def test_what_a_pod_did_stays_when_it_is_replaced() -> None:
    tally = Tally()
    tally.look([a_pod("one", answer((OLD, counted(100))))], at=10)
    tally.look([a_pod("one", answer((OLD, counted(130, 2, **drifted(0.5, 100)))))], at=20)
    tally.look([a_pod("two", answer((OLD, counted(12, **drifted(0.1, 300)))))], at=30)
    assert requests(tally, OLD) == (42, 2, 0)
    assert histograms(tally, OLD)["Drift"] == ([], [400], "80")


def test_restarts_go_to_what_the_pod_served_or_was_about_to() -> None:
    tally = Tally()
    tally.look([a_pod(said=answer((OLD, counted(1))), restarts=7), a_pod("mute", restarts=2)], at=10)
    tally.look([a_pod(said=answer((OLD, counted(1)), (NEW, None)), restarts=7)], at=20, wanted=(NEW,))
    tally.look([a_pod(restarts=9)], at=30, wanted=(NEW,))
    assert requests(tally, OLD)[2] == 2 and requests(tally, NEW)[2] == 2
    assert by_digest(tally)[NEW]["at"] == "1970-01-01T00:00:30Z", "a pod that never answers is told of by its restarts"
    tally.look([a_pod(restarts=9), a_pod("born", restarts=1)], at=40, wanted=(NEW,))
    assert requests(tally, OLD)[2] == 2 and requests(tally, NEW)[2] == 3, "it never answered: what it was to serve"
    fetching = Tally()
    fetching.look([a_pod(said=answer((NEW, None), state="Fetching"))], at=10)
    fetching.look([a_pod(restarts=1)], at=20, wanted=(OLD,))
    assert requests(fetching, OLD)[2] == 1 and NEW not in by_digest(fetching), "bytes on their way crash nobody"


def test_agreement_accuracy_and_drift() -> None:
    tally = Tally()
    tally.look([a_pod("a", running=False), a_pod("b", running=False)], at=10)
    first = counted(0, **mirrored(1, 0, 0, 0, 2, 7), feedback={"right": 8, "wrong": 2, "uncomparable": 5})
    second = counted(0, **mirrored(0, 0, 0, 0, 0, 10), **drifted(0.2, 50))
    tally.look([a_pod("a", answer((NEW, first))), a_pod("b", answer((NEW, second)))], at=20)
    told = histograms(tally, NEW)
    assert told["Agreement"] == (["0", "0.5", "0.9", "0.95", "0.99"], [1, 0, 0, 0, 2, 17], "17")
    assert told["Accuracy"] == (["0"], [2, 8], "8")
    assert told["Drift"] == ([], [50], "10")
    again = counted(0, **mirrored(0, 0, 0, 0, 0, 10), **drifted(0.4, 20))
    tally.look([a_pod("a", answer((NEW, first))), a_pod("b", answer((NEW, again)))], at=30)
    assert histograms(tally, NEW)["Drift"] == ([], [20], "8"), "it is of the last hour, and no sum"
    assert "Latency" not in told, "copies are no requests"


def test_the_same_version_told_of_twice_in_one_answer_counts_once() -> None:
    """The wanted entry and the one that serves, when only its parameters change."""
    tally = Tally()
    tally.look([a_pod(running=False)], at=10)
    tally.look([a_pod(said=answer((OLD, counted(5)), (OLD, counted(5))))], at=20)
    assert requests(tally, OLD) == (5, 0, 0)


def test_another_agent_goes_on_from_what_was_reported() -> None:
    before = Tally()
    before.look([a_pod(said=answer((OLD, counted(100))))], at=10)
    said = counted(150, 1, **mirrored(0, 0, 0, 0, 0, 10), **drifted(0.2, 50))
    before.look([a_pod(said=answer((OLD, said)), restarts=2)], at=20)
    reported = [Counters.model_validate({**item, "since": SINCE}) for item in before.counters()]
    after = Tally(resumed=reported)
    assert [{**item, "since": SINCE} for item in after.counters()] == [
        {**item, "histograms": [one for one in item["histograms"] if one["name"] != "Drift"], "since": SINCE}
        for item in before.counters()
    ]
    later = counted(170, 1, **mirrored(0, 0, 0, 0, 0, 12), **drifted(0.2, 60))
    after.look([a_pod(said=answer((OLD, later)), restarts=2)], at=30)
    assert requests(after, OLD) == (50, 1, 2), "what came in between is lost, nothing comes twice"
    assert histograms(after, OLD)["Drift"][1] == [60]


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        counted(-1),
        {**counted(1), "requests": 2**60},
        {**counted(1), "requests": True},
        {**counted(1), "errors": "1"},
        {**counted(1), "latency": {"bounds": [1], "counts": [1], "sum": 1}},
        {**counted(1), "latency": {"bounds": [2, 1], "counts": [1, 1, 1], "sum": 1}},
        {**counted(1), "latency": {"bounds": [1], "counts": [1, 1], "sum": float("nan")}},
        {**counted(1), "latency": {"bounds": [1], "counts": [1, 1], "sum": 1e300}},
        counted(1, mirror=[]) | {"mirror": [1]},
        counted(1, drift={"psi": -1, "rows": 1}),
        counted(1, feedback={"right": 1.5}),
    ],
)
def test_what_no_runtime_says_is_not_read(said: Any) -> None:
    assert read(said) is None
    tally = Tally()
    tally.look([a_pod(running=False)], at=10)
    tally.look([a_pod(said=answer((OLD, said), (NEW, counted(1))))], at=20)
    assert set(by_digest(tally)) == {NEW}


def test_other_bounds_go_to_the_bins_that_hold_them() -> None:
    found = read({**counted(5), "latency": {"bounds": [0.02, 20.0], "counts": [1, 2, 2], "sum": 3}})
    assert found is not None
    assert found.latency.counts[LATENCY_BOUNDS.index(0.025)] == 1 and found.latency.counts[-1] == 4


def test_more_digests_than_the_api_takes() -> None:
    digests = [f"sha256:{number:064x}" for number in range(200)]
    tally = Tally()
    tally.look([a_pod(running=False)], at=10)
    tally.look([a_pod(said=answer(*((digest, counted(index)) for index, digest in enumerate(digests))))], at=20)
    told = [item["digest"] for item in tally.counters(first=(digests[3],))]
    assert len(told) == MOST_DIGESTS and digests[3] in told and told == sorted(told)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.booleans(), st.booleans()), max_size=40))
def test_whatever_happens_to_pods_no_request_counts_twice_and_none_that_was_seen_is_lost(
    steps: list[tuple[int, int, bool, bool]],
) -> None:
    """Each step one of four pods serves some requests, may answer, and may begin a new process after it answered."""
    tally = Tally()
    tally.look([], at=0)
    process, done, seen, total = [0] * 4, [0] * 4, [0] * 4, 0
    for now, (pod, more, answers, dies) in enumerate(steps):
        done[pod] += more
        if answers:
            total, seen[pod] = total + done[pod] - seen[pod], done[pod]
        said = answer((OLD, counted(done[pod])), started=f"process {process[pod]}")
        tally.look(
            [a_pod(str(one), said if one == pod and answers else None, restarts=process[one]) for one in range(4)],
            at=now,
        )
        if dies:
            process[pod], done[pod], seen[pod] = process[pod] + 1, 0, 0
    told = by_digest(tally).get(OLD)
    assert (told["requests"] if told else 0) == total
