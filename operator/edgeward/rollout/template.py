"""Placeholders in a gate's PromQL: {{model}}, {{version}} and so on. Two braces are no PromQL, so nothing else is meant by
them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

NAMES = ("model", "version", "digest", "site", "wave", "job", "namespace")
MOST_TEXT = 4096
"""characters of a resolved query"""
_PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


class Unresolvable(Exception):
    """The query cannot be asked; the message says why and what to do."""


def resolved(query: str, values: Mapping[str, str]) -> str:
    """values: by placeholder. Each is put in as it belongs inside a string of PromQL."""

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            known = ", ".join("{{" + one + "}}" for one in NAMES)
            raise Unresolvable(f"the query holds the unknown placeholder {{{{{name}}}}}: use one of {known}"[:512])
        return values[name].replace("\\", "\\\\").replace('"', '\\"')

    text = _PLACE.sub(put, query)
    if len(text) > MOST_TEXT:
        raise Unresolvable(f"the query is longer than {MOST_TEXT} characters once its placeholders are filled in")
    return text


def any_of(names: Iterable[str]) -> str:
    """Several names as one that =~ matches."""
    return "|".join(name.replace(".", "[.]") for name in sorted(set(names)))
