"""Deletion is a positive word: what is merely missing serves on."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.hub.orphans import Orphans, Verdict, decide
from tests.unit.fleet.objects import Raw, ago, assignment

CRD: Raw = {
    "metadata": {"name": "inferencejobs.edgeward.dev"},
    "status": {"conditions": [{"type": "Established", "status": "True"}]},
}
ONE, TWO = assignment(job="one"), assignment(job="two")


def verdict(*missing: Raw, listed: set[str], definition: Any = CRD, confirmed: bool = False) -> Verdict:
    return decide(missing, listed, definition=definition, confirmed=confirmed)


def test_one_that_a_fresh_list_does_not_hold_may_go() -> None:
    assert verdict(ONE, listed={"shop/two"}) == Verdict(delete=("one-edge",))


def test_one_that_the_list_holds_is_spared() -> None:
    """The cache was behind: the job is there."""
    assert verdict(ONE, TWO, listed={"shop/one"}) == Verdict(delete=("two-edge",))


@pytest.mark.parametrize(
    "definition",
    [
        None,
        {**CRD, "metadata": {"name": "x", "deletionTimestamp": ago(1)}},
        {**CRD, "status": {}},
        {"metadata": {"name": "x"}},
        {**CRD, "status": {"conditions": [{"type": "Established", "status": "False"}]}},
        {**CRD, "status": {"conditions": [*CRD["status"]["conditions"], {"type": "Terminating", "status": "True"}]}},
    ],
)
@pytest.mark.parametrize("confirmed", [True, False])
def test_while_the_kind_itself_is_absent_or_going_nothing_is_deleted(definition: Any, confirmed: bool) -> None:
    assert verdict(ONE, TWO, listed={"shop/x"}, definition=definition, confirmed=confirmed) == Verdict()


def test_all_gone_at_once_waits_for_a_word() -> None:
    assert verdict(ONE, TWO, listed=set()) == Verdict(held=("one-edge", "two-edge"))
    assert verdict(ONE, TWO, listed=set(), confirmed=True) == Verdict(delete=("one-edge", "two-edge"))


def test_the_only_job_may_be_deleted_like_any_other() -> None:
    there = [assignment(job="one", site="a"), assignment(job="one", site="b")]
    assert verdict(*there, listed=set()) == Verdict(delete=("one-a", "one-b"))


def test_nothing_missing_is_nothing_to_do() -> None:
    assert verdict(listed=set()) == Verdict()


def test_a_job_must_be_missing_for_a_while() -> None:
    """kubectl replace --force deletes and creates: nothing may restart for it."""
    memory = Orphans(grace=2)
    assert memory.missing([ONE], set(), now=10) == ()
    assert memory.missing([ONE], {"shop/one"}, now=11) == ()
    assert memory.missing([ONE], set(), now=12) == (), "the wait begins anew"
    assert memory.missing([ONE], set(), now=13.9) == ()
    assert memory.missing([ONE], set(), now=14) == (ONE,)
    assert memory.missing([ONE], {"shop/one"}, now=15) == () and memory.since == {}


def test_one_that_is_going_already_is_left_alone() -> None:
    going = assignment(job="one")
    going["metadata"]["deletionTimestamp"] = ago(1)
    memory = Orphans(grace=0)
    assert memory.missing([going], set(), now=10) == ()
