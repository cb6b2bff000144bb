"""What is asked of a model's signature."""

from __future__ import annotations

from dataclasses import dataclass

REQUIRE, WARN, OFF = "Require", "Warn", "Off"
MAX_KEYS = 8
MAX_KEY_LENGTH = 8192  # characters of PEM


@dataclass(frozen=True, slots=True)
class Policy:
    """Require: nothing is loaded that none of the keys signed. Warn: it is, and the status says so. Off: nobody looks."""

    mode: str = OFF
    keys: tuple[str, ...] = ()  # public, PEM
