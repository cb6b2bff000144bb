"""What a registry that means no good can do to whoever lists its tags. Real ones: test_operator_registry.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from edgeward.registry.repository import Models, Reach, Refusal
from tests.unit.runtime.http_source import Source, serving

PATH = "/v2/m/tags/list"


@pytest.fixture
def registry() -> Iterator[Source]:
    with serving() as one:
        yield one


def models(registry: Source, **more: Any) -> Models:
    host = registry.address.removeprefix("http://")
    return Models(f"oci://{host}/m", reach=Reach(plain_http=frozenset({host}), timeout=5.0), **more)


def page(*tags: Any, link: str = "") -> tuple[int, dict[str, str], bytes]:
    return 200, {"Link": link} if link else {}, json.dumps({"tags": tags}).encode()


def test_what_is_no_tag_is_none(registry: Source) -> None:
    odd = ["1.0.0-" + "1" * 5000, "1.4.0_arch-../../../other/manifests/1", "a b", "", 7, None, "-1", "1" * 129]
    registry.answers[PATH] = lambda *_asked: page("1.0.0", "latest", *odd)
    assert models(registry).tags() == ["1.0.0", "latest"]


def test_pages_that_lead_back_come_to_an_end(registry: Source) -> None:
    next_of = {"n=1000": "2", "last=2": "3", "last=3": "2"}

    def answer(target: str, *_more: object) -> tuple[int, dict[str, str], bytes]:
        asked = target.partition("?")[2]
        return page(asked.replace("=", "-"), link=f'<{PATH}?last={next_of[asked]}>; rel="next"')

    registry.answers[PATH] = answer
    assert models(registry).tags() == ["last-2", "last-3", "n-1000"]
    assert len(registry.requests) == 3


def test_pages_without_end_and_tags_without_number_are_refused(registry: Source) -> None:
    numbers = iter(range(10**9))

    def answer(*_asked: object) -> tuple[int, dict[str, str], bytes]:
        number = next(numbers)
        return page(f"1.0.{number}", link=f'<{PATH}?last={number}>; rel="next"')

    registry.answers[PATH] = answer
    with pytest.raises(Refusal, match="more than"):
        models(registry).tags()
    registry.answers[PATH] = lambda *_asked: page(*(str(number) for number in range(60_000)))
    with pytest.raises(Refusal, match="more than"):
        models(registry).tags()


def test_many_slow_answers_are_one_slow_look(registry: Source) -> None:
    now = [0.0]
    numbers = iter(range(10**9))

    def answer(*_asked: object) -> tuple[int, dict[str, str], bytes]:
        now[0] += 25.0
        return page("1.0.0", link=f'<{PATH}?last={next(numbers)}>; rel="next"')

    registry.answers[PATH] = answer
    with pytest.raises(Refusal, match="took more than 120 s") as caught:
        models(registry, clock=lambda: now[0]).tags()
    assert caught.value.reason == "Unreachable"
    assert len(registry.requests) < 10


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b"{", b"7", b'{"tags": 7}', b'{"tags": {"a": 1}}'])
def test_what_is_no_list_is_refused_or_empty(registry: Source, body: bytes) -> None:
    registry.answers[PATH] = lambda *_asked: (200, {}, body)
    try:
        assert models(registry).tags() == []
    except Refusal as refusal:
        assert refusal.reason == "Unreachable"


def test_a_link_of_any_length_is_soon_read(registry: Source) -> None:
    registry.answers[PATH] = lambda *_asked: page("1.0.0", link="<" * 60_000)
    assert models(registry).tags() == ["1.0.0"]
