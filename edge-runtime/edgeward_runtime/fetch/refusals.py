"""Why a source failed, without its secrets."""

from __future__ import annotations

import urllib.parse

from edgeward_runtime.errors import Refusal


def shown(source: str) -> str:
    """The address without user, password and query: those may be secrets, and messages end up in statuses."""
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError:
        return "an address that cannot be read"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def refusal(reason: str, message: str, *, step: str = "Fetch", permanent: bool = False) -> Refusal:
    return Refusal(step=step, reason=reason, message=message, permanent=permanent)


def unreachable(source: str, text: str) -> Refusal:
    return refusal("Unreachable", f"{shown(source)}: {text}")


def unsupported(source: str, text: str) -> Refusal:
    return refusal("UnsupportedSource", f"{shown(source)}: {text}", permanent=True)


def mismatch(source: str, text: str) -> Refusal:
    return refusal("DigestMismatch", f"{shown(source)} {text}", step="Verify")


def too_large(source: str, size: int, limit: int) -> Refusal:
    return refusal("TooLarge", f"{shown(source)} has {size} bytes or more, the limit is {limit}", permanent=True)


def reason_text(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)[:300]
