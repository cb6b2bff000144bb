"""Which tags a range takes, in npm's syntax (docs.npmjs.com, "semver")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.constraint import BadConstraint, Constraint, Version, parse, version

TAGS = [
    "0.0.3",
    "0.2.3",
    "0.2.9",
    "0.3.0",
    "1.0.0",
    "1.2.3-beta.2",
    "1.2.3-beta.11",
    "1.2.3",
    "1.2.4",
    "1.3.0-alpha",
    "1.3.0",
    "1.9.9",
    "2.0.0-rc.1",
    "2.0.0",
    "3.1.0",
]


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("1.x", "1.0.0 1.2.3 1.2.4 1.3.0 1.9.9"),
        ("1", "1.0.0 1.2.3 1.2.4 1.3.0 1.9.9"),
        ("v1.2", "1.2.3 1.2.4"),
        ("*", "0.0.3 0.2.3 0.2.9 0.3.0 1.0.0 1.2.3 1.2.4 1.3.0 1.9.9 2.0.0 3.1.0"),
        ("~1.2.4", "1.2.4"),
        ("~1.2", "1.2.3 1.2.4"),
        ("~1", "1.0.0 1.2.3 1.2.4 1.3.0 1.9.9"),
        ("^1.2.4", "1.2.4 1.3.0 1.9.9"),
        ("^0.2.3", "0.2.3 0.2.9"),
        ("^0.0.3", "0.0.3"),
        ("^0.0", "0.0.3"),
        ("^0", "0.0.3 0.2.3 0.2.9 0.3.0"),
        (">=1 <2", "1.0.0 1.2.3 1.2.4 1.3.0 1.9.9"),
        (">= 1.2.4, < 1.9", "1.2.4 1.3.0"),
        ("1.2 - 1.3", "1.2.3 1.2.4 1.3.0"),
        ("1.2.4 - 1.9.9", "1.2.4 1.3.0 1.9.9"),
        ("1.0.x || >=3.1", "1.0.0 3.1.0"),
        (">1.2", "1.3.0 1.9.9 2.0.0 3.1.0"),
        (">1.2.3", "1.2.4 1.3.0 1.9.9 2.0.0 3.1.0"),
        (">1", "2.0.0 3.1.0"),
        ("<=0.2", "0.0.3 0.2.3 0.2.9"),
        ("<=0.2.3", "0.0.3 0.2.3"),
        ("<0.2", "0.0.3"),
        ("=1.2.3", "1.2.3"),
        (">*", ""),
        # A prerelease only where a bound names one of the same version.
        (">=1.2.3-beta.3 <1.2.4", "1.2.3-beta.11 1.2.3"),
        ("1.2.3-beta.2", "1.2.3-beta.2"),
        ("~1.2.3-beta.2", "1.2.3-beta.2 1.2.3-beta.11 1.2.3 1.2.4"),
        (">=2.0.0-0", "2.0.0-rc.1 2.0.0 3.1.0"),
    ],
)
def test_what_a_range_takes(text: str, taken: str) -> None:
    assert sorted(parse(text).newest_first(TAGS)) == sorted(taken.split())


@pytest.mark.parametrize(
    "text", ["", " ", "||", "1.x ||", "latest", "1.2.3.4", ">=", "1.x-rc", "==1", "~>1.2", "01.2", "^^1"]
)
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(BadConstraint, match=r"is no version|is empty"):
        parse(text)


@pytest.mark.parametrize(
    "tag",
    ["1", "1.4", "latest", "1.4.0_arch-arm64", "1.4.0-", "1.04.0", "1.4.0-01", "sha256-abc.sig", "1.4.0.1", "-1.0.0"],
)
def test_what_is_no_version(tag: str) -> None:
    assert version(tag) is None


def test_precedence_as_the_specification_has_it() -> None:
    """semver.org, 11."""
    order = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.1",
        "1.10.0",
    ]
    backwards = order[::-1]
    assert sorted(backwards, key=lambda one: version(one) or Version(0, 0, 0)) == order


def test_one_tag_a_version() -> None:
    assert parse("*").newest_first(["v1.4.0", "1.4.0", "1.10.0", "latest", "1.4", "v2.0.0"]) == [
        "v2.0.0",
        "1.10.0",
        "1.4.0",
    ]


NUMBERS = st.tuples(*[st.integers(0, 12)] * 3)
VERSIONS = st.builds(
    lambda numbers, pre: Version(*numbers, pre),
    NUMBERS,
    st.lists(st.sampled_from(["0", "1", "2", "11", "alpha", "rc", "-"]), max_size=3).map(tuple),
)


def written(one: Version) -> str:
    numbers = ".".join(map(str, one.numbers))
    return f"{numbers}-{'.'.join(one.pre)}" if one.pre else numbers


@given(VERSIONS, VERSIONS)
def test_written_and_read_and_in_order(one: Version, other: Version) -> None:
    assert version(written(one)) == one
    assert (one < other) + (other < one) + (one == other) == 1


@given(NUMBERS, NUMBERS)
def test_caret_tilde_and_wildcards_are_the_bounds_that_they_stand_for(
    low: tuple[int, ...], at: tuple[int, ...]
) -> None:
    major, minor, patch = low
    here, text = Version(*at), ".".join(map(str, low))

    def same(short: str, long: str) -> None:
        assert parse(short).matches(here) == parse(long).matches(here), (short, long, here)

    same(f"~{text}", f">={text} <{major}.{minor + 1}.0")
    first = next((place for place, number in enumerate(low) if number), 2)
    bound = [*low[:first], low[first] + 1, 0, 0][:3]
    same(f"^{text}", f">={text} <{'.'.join(map(str, bound))}")
    same(f"{major}.x", f">={major}.0.0 <{major + 1}.0.0")
    same(f"{major}.{minor}", f"{major}.{minor}.x")
    same(f">{major}.{minor}", f">={major}.{minor + 1}.0")
    same(f"<={major}.{minor}", f"<{major}.{minor + 1}.0")
    same(f"{major} - {text}", f">={major}.0.0 <={text}")
    assert parse(text).matches(here) == (low == at)
    assert patch == low[2]


@given(st.sampled_from(["1.x", "^1.2.3", ">=1 <3", "*", "~2.1", "<=5"]), VERSIONS)
def test_a_range_without_a_prerelease_takes_none(text: str, one: Version) -> None:
    assert not one.pre or not parse(text).matches(one)


@given(st.text(alphabet="0123456789.x*<>=~^ |,-vab", max_size=24))
def test_any_text_is_a_range_or_says_why_not(text: str) -> None:
    try:
        assert isinstance(parse(text), Constraint)
    except BadConstraint as error:
        assert str(error)
