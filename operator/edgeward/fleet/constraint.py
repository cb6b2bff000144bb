"""Semantic versions (semver.org) and the ranges that spec.track names, in npm's syntax. Pure.

    1.x  1.2.x  1  *          any version with these numbers
    ~1.2.3  ~1.2              patches: >=1.2.3 <1.3
    ^1.2.3  ^0.2.3            what does not break it: >=1.2.3 <2, >=0.2.3 <0.3
    >=1.2 <2   1.2 - 1.9      both bounds; a comma stands for a space
    1.x || >=3.1              either

A prerelease (1.5.0-rc.1) is taken only where a bound names one of the very same 1.5.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PRERELEASE = rf"(?:-(?P<pre>{_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
_VERSION = re.compile(rf"v?(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER}){_PRERELEASE}")
_ANY = rf"(?:{_NUMBER}|[xX*])"
_PARTIAL = re.compile(rf"v?(?P<major>{_ANY})(?:\.(?P<minor>{_ANY})(?:\.(?P<patch>{_ANY}){_PRERELEASE})?)?")
_OPERATOR = re.compile(r"(>=|<=|>|<|=|~|\^)\s*")
_HYPHEN = re.compile(r"(?P<low>\S+)\s+-\s+(?P<high>\S+)")


class BadConstraint(ValueError):
    """Says which part cannot be read, and what would do."""


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """Ordered by precedence: 1.0.0-alpha < 1.0.0-alpha.1 < 1.0.0-rc < 1.0.0."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.major, self.minor, self.patch

    def _key(self) -> tuple[object, ...]:
        return (
            self.numbers,
            not self.pre,
            tuple((0, int(one), "") if one.isdigit() else (1, 0, one) for one in self.pre),
        )

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()


def version(text: str) -> Version | None:
    """Of a tag such as 1.4.0, v1.4.0 or 1.4.0-rc.1. None for any other: 1.4 and latest move, 1.4.0_arch-arm64 is a variant."""
    found = _VERSION.fullmatch(text)
    if found is None:
        return None
    return Version(int(found["major"]), int(found["minor"]), int(found["patch"]), _identifiers(found["pre"]))


def _identifiers(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


@dataclass(frozen=True, slots=True)
class _Bound:
    operator: str
    """>= > <= <"""
    at: Version
    named: bool = True
    """whether a prerelease in it was written by somebody, and does not only close a range"""

    def holds(self, one: Version) -> bool:
        match self.operator:
            case ">=":
                return one >= self.at
            case ">":
                return one > self.at
            case "<=":
                return one <= self.at
            case _:
                return one < self.at


@dataclass(frozen=True, slots=True)
class Constraint:
    """Alternatives, each of bounds that must all hold."""

    alternatives: tuple[tuple[_Bound, ...], ...]

    def matches(self, one: Version) -> bool:
        return any(_all_hold(bounds, one) for bounds in self.alternatives)

    def newest_first(self, tags: Iterable[str]) -> list[str]:
        """The tags that match. Of two for the same version, the one without a leading v."""
        found: dict[Version, str] = {}
        for tag in sorted(tags, key=lambda one: (one.startswith("v"), one)):
            one = version(tag)
            if one is not None and self.matches(one):
                found.setdefault(one, tag)
        return [found[one] for one in sorted(found, reverse=True)]


def _all_hold(bounds: tuple[_Bound, ...], one: Version) -> bool:
    if not all(bound.holds(one) for bound in bounds):
        return False
    return not one.pre or any(bound.named and bound.at.pre and bound.at.numbers == one.numbers for bound in bounds)


def parse(text: str) -> Constraint:
    """Raises BadConstraint."""
    return Constraint(tuple(_alternative(part) for part in text.split("||")))


def _alternative(text: str) -> tuple[_Bound, ...]:
    text = text.replace(",", " ").strip()
    if not text:
        raise BadConstraint("an alternative is empty: write * for any version")
    hyphen = _HYPHEN.fullmatch(text)
    if hyphen is not None:
        low, high = _partial(hyphen["low"]), _partial(hyphen["high"])
        return (*_bounds(">=", low), *_bounds("<=", high))
    bounds: list[_Bound] = []
    for word in _OPERATOR.sub(r"\1", text).split():
        operator = _OPERATOR.match(word)
        sign = operator[1] if operator else ""
        bounds += _bounds(sign, _partial(word.removeprefix(sign)))
    return tuple(bounds)


@dataclass(frozen=True, slots=True)
class _Partial:
    numbers: tuple[int, ...]
    """major, minor and patch as far as they are given"""
    pre: tuple[str, ...]

    @property
    def low(self) -> Version:
        major, minor, patch = (*self.numbers, 0, 0, 0)[:3]
        return Version(major, minor, patch, self.pre)


def _partial(text: str) -> _Partial:
    found = _PARTIAL.fullmatch(text)
    if found is None:
        raise BadConstraint(f"{text[:40]!r} is no version: write such as 1.x, ~1.2, ^1.2.3, >=1.2 <2 or 1.2 - 1.9")
    numbers: list[int] = []
    for name in ("major", "minor", "patch"):
        if found[name] is None or found[name] in "xX*":
            break
        numbers.append(int(found[name]))
    return _Partial(tuple(numbers), _identifiers(found["pre"]) if len(numbers) == 3 else ())


def _below(numbers: tuple[int, ...], place: int) -> _Bound:
    """Before the next version in that place, and before its prereleases: 1.2 in place 1 is <1.3.0-0."""
    major, minor, patch = (*numbers[:place], numbers[place] + 1, 0, 0)[:3]
    return _Bound("<", Version(major, minor, patch, ("0",)), named=False)


def _bounds(sign: str, partial: _Partial) -> list[_Bound]:
    numbers, low = partial.numbers, partial.low
    whole = len(numbers) == 3
    if not numbers:
        # Nothing is above or below any version.
        return [] if sign not in ("<", ">") else [_Bound("<", Version(0, 0, 0, ("0",)), named=False)]
    last = len(numbers) - 1
    match sign:
        case "" | "=":
            return [_Bound(">=", low), _Bound("<=", low) if whole else _below(numbers, last)]
        case "~":
            return [_Bound(">=", low), _below(numbers, min(last, 1))]
        case "^":
            place = next((index for index, number in enumerate(numbers) if number), last)
            return [_Bound(">=", low), _below(numbers, place)]
        case ">":
            if whole:
                return [_Bound(">", low)]
            raised = _below(numbers, last).at
            return [_Bound(">=", Version(*raised.numbers))]
        case ">=":
            return [_Bound(">=", low)]
        case "<":
            return [_Bound("<", low) if whole else _Bound("<", Version(*low.numbers, ("0",)), named=False)]
        case _:
            return [_Bound("<=", low) if whole else _below(numbers, last)]
