"""What may be kept, and of which requests: the `capture` of models.json."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Redaction(enum.IntEnum):
    """From the strictest on: each allows what those before it do, and more. docs/capture.md has the table."""

    NONE = 0  # nothing
    SKETCH = 1  # histograms of many requests together
    FEATURES = 2  # of a request: what the model made of it, and statistics; never what came in, never text
    RAW = 3  # all of it


NAMES = {"None": Redaction.NONE, "Sketch": Redaction.SKETCH, "Features": Redaction.FEATURES, "Raw": Redaction.RAW}
NAME_OF = {mode: name for name, mode in NAMES.items()}

ALWAYS, LOW_CONFIDENCE, DRIFTED, ERROR = "Always", "LowConfidence", "Drifted", "Error"
WHENS = (ALWAYS, LOW_CONFIDENCE, DRIFTED, ERROR)
HIGHEST_PRIORITY = 100
_MOST_RULES = 16
_MOST = 2**53


@dataclass(frozen=True, slots=True)
class Rule:
    """Every n-th of the requests that it is about is kept, as so important."""

    when: str
    every: int = 1
    priority: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    redaction: Redaction = Redaction.FEATURES
    rules: tuple[Rule, ...] = ()
    ttl_seconds: int = 72 * 3600
    max_bytes: int = 256 * 2**20  # of the ring's files on disk, all of them together


class BadPolicy(ValueError):
    """The text names the field."""


def parse(raw: object, warnings: list[str]) -> Policy:
    """BadPolicy for what is wrong; what is not known is added to the warnings."""
    if not isinstance(raw, dict):
        raise BadPolicy("capture must be an object")
    defaults = Policy()
    name = raw.get("redaction", NAME_OF[defaults.redaction])
    if not isinstance(name, str) or name not in NAMES:
        raise BadPolicy(f"capture.redaction is {name!r:.50}, not one of {', '.join(NAMES)}")
    rules = parse_rules(raw.get("rules", []), warnings)
    warnings += _unknown(raw, {"redaction", "rules", "ttlSeconds", "maxBytes"}, "capture.")
    return Policy(
        redaction=NAMES[name],
        rules=rules,
        ttl_seconds=_number(raw, "ttlSeconds", "capture", defaults.ttl_seconds, lowest=1),
        max_bytes=_number(raw, "maxBytes", "capture", defaults.max_bytes, lowest=0),
    )


def parse_rules(raw: object, warnings: list[str]) -> tuple[Rule, ...]:
    if not isinstance(raw, list) or len(raw) > _MOST_RULES:
        raise BadPolicy(f"capture.rules must be a list of at most {_MOST_RULES}")
    return tuple(_rule(one, f"capture.rules[{index}]", warnings) for index, one in enumerate(raw))


def _rule(raw: object, where: str, warnings: list[str]) -> Rule:
    if not isinstance(raw, dict):
        raise BadPolicy(f"{where} must be an object")
    when = raw.get("when")
    if when not in WHENS:
        raise BadPolicy(f"{where}.when is {when!r:.50}, not one of {', '.join(WHENS)}")
    warnings += _unknown(raw, {"when", "every", "priority"}, where + ".")
    return Rule(
        when=when,
        every=_number(raw, "every", where, 1, lowest=1),
        priority=_number(raw, "priority", where, 0, lowest=0, highest=HIGHEST_PRIORITY),
    )


def _number(raw: dict[str, Any], key: str, where: str, default: int, *, lowest: int, highest: int = _MOST) -> int:
    value = raw.get(key, default)
    if type(value) is not int or not lowest <= value <= highest:
        raise BadPolicy(f"{where}.{key} is {value!r:.50}, wanted a whole number from {lowest} to {highest}")
    return value


def _unknown(holder: dict[str, Any], known: set[str], where: str) -> Iterable[str]:
    return [f"{where}{key}: unknown field ignored" for key in sorted(holder.keys() - known)]


@dataclass(slots=True)
class _Counted:
    rule: Rule
    met: int = 0


class Sampler:
    """Which requests the rules keep. Counts instead of drawing lots: every 100th is every 100th, and the first of a
    kind is among them."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [_Counted(rule) for rule in rules]

    def pick(self, of: Iterable[str]) -> Rule | None:
        """of: what is so of a request, names of WHENS. The rule of the highest priority that keeps it, each rule counts
        it."""
        found: Rule | None = None
        for one in self._rules:
            if one.rule.when not in of:
                continue
            one.met += 1
            if (one.met - 1) % one.rule.every == 0 and (found is None or one.rule.priority > found.priority):
                found = one.rule
        return found
