"""`edgeward explain` as text, kept and reviewed by eye. After a wanted change: EDGEWARD_UPDATE_GOLDEN=1 pytest
tests/unit/cli/test_explain.py, then read the diff."""

from __future__ import annotations

import io
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.api.common import parse, parse_time
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.reasons import NodeRejection
from edgeward.cli.explain_text import LIKELY, lines_of, what_would_place
from edgeward.cli.standing import MISSED, Standing, ahead_of, alike
from edgeward.cli.table import Page, page_for
from edgeward.placement.settings import Weights

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
NOW = parse_time("2026-03-04T10:00:00Z")
JOBS = ("nominated", "serving", "unseen", "waiting")


def raw(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((HERE / "jobs" / f"{name}.yaml").read_text()))


def other(key: str, tier: int, score: int, *, replicas: int = 1, ready: bool = True, **meta: Any) -> dict[str, Any]:
    namespace, _, name = key.partition("/")
    return {
        "metadata": {"namespace": namespace, "name": name, **meta},
        "status": {
            "priority": {"tier": tier, "score": score},
            "replicas": replicas,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


OTHERS = [
    other("shop/brake-watch", 5, 1000, replicas=0, ready=False),
    other("shop/sign-reader", 4, 800, replicas=2),
    other("shop/alike", 3, 500),
    other("shop/page-turner", 3, 500),
    other("shop/file-sorter", 1, 900, replicas=9),
]


def standing(name: str, others: list[dict[str, Any]] | None = OTHERS) -> Standing:
    job = parse(InferenceJob, raw(name))
    return Standing(job=job, ahead=None if others is None else ahead_of(job, others), now=NOW)


@pytest.mark.parametrize("width", [100, 60])
@pytest.mark.parametrize("name", JOBS)
def test_the_text(name: str, width: int) -> None:
    text = "\n".join(lines_of(standing(name), Page(width=width))) + "\n"
    path = GOLDEN / f"explain-{name}-{width}.txt"
    if os.environ.get("EDGEWARD_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", JOBS)
def test_no_line_is_wider_than_the_terminal_but_for_columns_and_words_that_cannot_be_cut(name: str, width: int) -> None:
    for line in lines_of(standing(name), Page(width=width)):
        columns = len(line.rstrip().split("  ")) > 2
        assert len(line) <= width or columns or len(max(line.split(), key=len)) > width - 16, line


def test_colour_changes_no_word() -> None:
    import re

    for name in JOBS:
        painted = "\n".join(lines_of(standing(name), Page(width=100, colour=True)))
        plain = "\n".join(lines_of(standing(name), Page(width=100)))
        assert painted != plain
        assert re.sub(r"\x1b\[\d+m", "", painted) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "colour"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_and_for_who_wants_it(
    stream: io.StringIO, environ: dict[str, str], colour: bool
) -> None:
    assert page_for(stream, environ).colour is colour


def test_who_is_ahead_in_their_order() -> None:
    """Higher tiers, then larger P; one that is alike in both only when the status names it; the dying do not count."""
    dying = other("shop/dying", 5, 1000, deletionTimestamp="2026-03-04T09:00:00Z")
    unplanned = {"metadata": {"namespace": "shop", "name": "unplanned"}}
    found = ahead_of(parse(InferenceJob, raw("waiting")), [*OTHERS, other("shop/twin", 3, 500), dying, unplanned])
    assert [item.job for item in found] == ["shop/brake-watch", "shop/sign-reader", "shop/alike"]
    assert [(item.tier, item.replicas, item.ready) for item in found] == [(5, 0, False), (4, 2, True), (3, 1, True)]


def test_long_lists_end_with_how_many_more() -> None:
    others = [other(f"a/job-{number:02}", 5, 900 - number) for number in range(30)]
    text = "\n".join(lines_of(standing("waiting", others), Page()))
    assert "ahead of it (30):" in text and "and 22 more" in text
    assert "a/job-07" in text and "a/job-08" not in text


def test_when_the_others_may_not_be_listed_it_says_so() -> None:
    text = "\n".join(lines_of(standing("waiting", None), Page(width=200)))
    assert "not yours to list" in text
    assert "4th of 5, after shop/alike" in text


def test_nobody_ahead() -> None:
    assert "  nobody is ahead of it" in lines_of(standing("nominated"), Page())


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("NoRunnableModel", "a version in ModelRelease page-turner: kubectl describe mr page-turner"),
        ("InvalidSpec", "another spec: the message names the field"),
        ("PolicyForbids", "another spec: the message names the field"),
        ("QuotaExceeded", "a larger quota: the message names whose it is"),
        ("NoCapacity", "more room: shop-19-a lacks 300m cpu (5 nodes: InsufficientCpu)"),
        ("TooBigForAnyNode", "more room: shop-19-a lacks 300m cpu (5 nodes: InsufficientCpu)"),
    ],
)
def test_what_would_place_it_goes_by_the_reason(reason: str, said: str) -> None:
    job = raw("waiting")
    job["status"]["conditions"][0]["reason"] = reason
    one = Standing(job=parse(InferenceJob, job), ahead=(), now=NOW)
    found = what_would_place(one)
    assert found[0] == said
    assert ("kubectl edgeward what-if --add-node tier=edge,cpu=4,memory=8Gi" in found[-1]) == ("shop" in said)


def test_every_reason_of_a_node_has_its_answer() -> None:
    assert {reason: MISSED[reason] for reason in (item.value for item in NodeRejection)} == dict(MISSED)
    assert set(MISSED.values()) == set(LIKELY)
    assert (MISSED["SiteMismatch"], MISSED["SiteFrozen"], MISSED["SiteQuotaExceeded"], MISSED["NodeSelectorMismatch"]) == (
        "another spec", "the site back", "a larger limit", "another spec"
    )  # fmt: skip


def test_every_term_of_the_score_has_its_words() -> None:
    job = raw("serving")
    job["status"]["explanation"]["terms"] = [
        {"name": item.name, "weight": 100, "value": 500} for item in fields(Weights)
    ]
    text = lines_of(Standing(job=parse(InferenceJob, job), ahead=(), now=NOW), Page(width=200))
    for item in fields(Weights):
        (line,) = [line for line in text if line.startswith(f"  {item.name} ") and "0.050" in line]
        assert len(line.split("0.050", 1)[1].strip()) > 10, line


def test_the_document_for_machines() -> None:
    document = standing("serving").document()
    assert json.loads(json.dumps(document)) == document
    assert (document["job"], document["ready"], document["reason"], document["waits"]) == (
        "shop/sign-reader",
        True,
        "Serving",
        False,
    )
    assert [item["job"] for item in document["ahead"]] == ["shop/brake-watch"]
    terms = document["explanation"]["terms"]
    assert [term["contribution"] for term in terms] == [69, 266, 133, 56, 222, 56]
    assert document["explanation"]["runnersUp"][0]["terms"][1]["contribution"] == 166
    assert document["exclusions"][0]["until"] == "2026-03-04T10:02:10Z"
    assert document["spec"]["placement"]["tiers"] == ["edge", "fog"]
    unseen = standing("unseen").document()
    assert (unseen["ready"], unseen["reason"], unseen["explanation"]) == (None, "PendingEvaluation", None)


def test_names_that_may_have_been_meant() -> None:
    known = ["sign-reader", "sign-reader-large", "file-sorter", "page-turner"]
    assert alike("sign-raeder", known)[0] == "sign-reader"
    assert "file-sorter" in alike("sorter", known)
    assert alike("zzz", known) == []


def test_an_elastic_site_has_no_node_to_name() -> None:
    job = raw("waiting")
    job["status"]["decisions"][0]["nodes"] = ["pool/*"]
    job["status"]["explanation"]["node"] = "pool/*"
    text = "\n".join(lines_of(Standing(job=parse(InferenceJob, job), ahead=(), now=NOW), Page()))
    assert "Why any node of pool, as decided" in text
    assert "2s ago   any node of pool" in text and "pool/*" not in text
