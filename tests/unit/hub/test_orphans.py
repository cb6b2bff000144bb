"""Deletion is a positive word: what is merely missing serves on."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.hub.orphans import EVERY, HELD, Orphans, Verdict, decide, held_text, read_held
from tests.unit.fleet.objects import Raw, ago, assignment, job

CRD: Raw = {
    "metadata": {"name": "inferencejobs.edgeward.dev"},
    "status": {"conditions": [{"type": "Established", "status": "True"}]},
}
ONE, TWO = assignment(job="one"), assignment(job="two")


def verdict(*missing: Raw, listed: set[str], definition: Any = CRD, confirmed: bool = False, **more: Any) -> Verdict:
    return decide(missing, listed, definition=definition, confirmed=confirmed, **more)


def there(*keys: str) -> list[Raw]:
    """Jobs in the cache."""
    return [job(key.partition("/")[2]) for key in keys]


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
    both = frozenset({"shop/one", "shop/two"})
    assert verdict(ONE, TWO, listed=set()) == Verdict(held=("one-edge", "two-edge"), jobs=both)
    assert verdict(ONE, TWO, listed=set(), confirmed=True) == Verdict(delete=("one-edge", "two-edge"))


def test_the_only_job_may_be_deleted_like_any_other() -> None:
    told = [assignment(job="one", site="a"), assignment(job="one", site="b")]
    assert verdict(*told, listed=set()) == Verdict(delete=("one-a", "one-b"))


def test_nothing_missing_is_nothing_to_do() -> None:
    assert verdict(listed=set()) == Verdict()


def test_a_job_must_be_missing_for_a_while() -> None:
    """kubectl replace --force deletes and creates: nothing may restart for it."""
    memory = Orphans(grace=2)
    assert memory.missing([ONE], [], now=10) == ()
    assert memory.missing([ONE], there("shop/one"), now=11) == ()
    assert memory.missing([ONE], [], now=12) == (), "the wait begins anew"
    assert memory.missing([ONE], [], now=13.9) == ()
    assert memory.missing([ONE], [], now=14) == (ONE,)
    assert memory.missing([ONE], there("shop/one"), now=15) == () and memory.since == {}


def test_one_that_is_going_already_is_left_alone() -> None:
    going = assignment(job="one")
    going["metadata"]["deletionTimestamp"] = ago(1)
    memory = Orphans(grace=0)
    assert memory.missing([going], [], now=10) == ()


# Held -----------------------------------------------------------------------------------------------------------------

FIVE = [assignment(job=f"j{number}") for number in range(5)]
KEYS = frozenset(f"shop/j{number}" for number in range(5))


def test_the_first_that_is_back_does_not_give_up_the_others() -> None:
    """A backup that is read in brings the jobs back one by one; the first one used to cost all the others their pods."""
    said = verdict(*FIVE, listed=set())
    assert (said.delete, said.jobs) == ((), KEYS)
    later = verdict(*FIVE, listed={"shop/j0"}, held=said.jobs)
    assert later.delete == () and later.jobs == KEYS - {"shop/j0"}
    assert verdict(*FIVE, listed={"shop/j0"}, held=later.jobs, confirmed=True).delete == later.held


def test_one_that_was_not_held_goes_while_others_are() -> None:
    assert verdict(ONE, TWO, listed={"shop/x"}, held=frozenset({"shop/two"})) == Verdict(
        delete=("one-edge",), held=("two-edge",), jobs=frozenset({"shop/two"})
    )


def test_those_that_are_missing_for_a_moment_only_count_as_gone_too() -> None:
    """Of all jobs that go at once, the hub notices one first; alone it used to look like an ordinary deletion."""
    said = verdict(ONE, listed=set(), away=["shop/one", "shop/two"])
    assert said == Verdict(held=("one-edge",), jobs=frozenset({"shop/one", "shop/two"}))


def test_a_definition_that_is_younger_than_what_was_made_of_it_holds_even_a_single_job() -> None:
    """Lost and made again, it comes without its jobs."""
    anew = {**CRD, "metadata": {"name": "x", "creationTimestamp": ago(400)}}  # the Assignment: 500 s
    assert verdict(ONE, listed=set(), definition=anew) == Verdict(held=("one-edge",), jobs=frozenset({"shop/one"}))
    assert verdict(ONE, listed={"shop/two"}, definition=anew).delete == ()
    assert verdict(ONE, listed=set(), definition=anew, confirmed=True).delete == ("one-edge",)
    old = {**CRD, "metadata": {"name": "x", "creationTimestamp": ago(500)}}
    assert verdict(ONE, listed=set(), definition=old).delete == ("one-edge",)


def test_a_job_that_was_made_under_the_new_definition_may_be_deleted() -> None:
    anew = {**CRD, "metadata": {"name": "x", "creationTimestamp": ago(400)}}
    assert verdict(ONE, listed=set(), definition=anew, born={"shop/one": ago(300)}).delete == ("one-edge",)
    assert verdict(ONE, listed=set(), definition=anew, born={"shop/one": ago(450)}).delete == ()


def test_when_a_job_was_made_is_known_for_as_long_as_something_is_left_of_it() -> None:
    memory = Orphans(grace=2)
    memory.missing([ONE], there("shop/one"), now=10)
    memory.missing([ONE], [], now=11)
    assert memory.born == {"shop/one": ago(1000)}
    memory.missing([], [], now=12)
    assert memory.born == {}


def test_more_names_than_fit_hold_whatever_is_missing() -> None:
    many = frozenset(f"shop/{number:0250}" for number in range(400))
    text = held_text(many)
    assert text == EVERY
    held = read_held({HELD: text})
    assert verdict(ONE, listed={"shop/x"}, held=held).delete == ()
    few = frozenset({"shop/b", "shop/a"})
    assert held_text(few) == "shop/a,shop/b" and read_held({HELD: held_text(few)}) == few
    assert held_text(frozenset()) is None and read_held({}) == frozenset()


def test_held_ends_for_each_that_is_back_and_for_all_of_them_together_when_none_was_named() -> None:
    memory = Orphans(grace=2)
    memory.missing([ONE, TWO], there("shop/two"), now=10)
    assert memory.still(frozenset({"shop/one", "shop/two"})) == {"shop/one"}
    assert memory.still(frozenset({EVERY})) == {EVERY}
    memory.missing([ONE, TWO], there("shop/one", "shop/two"), now=11)
    assert memory.still(frozenset({EVERY})) == memory.still(frozenset({"shop/one"})) == frozenset()
