"""The other pods of the job at its site, as the agent names them in models.json."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_MOST_HOSTS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """The addresses of `hosts` are the job's pods at this site, this one among them; each gives and asks at `port`."""

    hosts: tuple[str, ...]
    port: int
    token: str = field(repr=False)


def parse(raw: object, unknown: list[str]) -> Sharing:
    """ValueError names the field. `unknown` gets the fields that this runtime ignores."""
    if not isinstance(raw, dict):
        raise ValueError("peers must be an object")
    hosts, port, token = raw.get("hosts"), raw.get("port"), raw.get("token")
    if not isinstance(hosts, list) or not 1 <= len(hosts) <= _MOST_HOSTS or not all(map(_host, hosts)):
        raise ValueError(f"peers.hosts must be a list of 1 to {_MOST_HOSTS} names or addresses")
    if type(port) is not int or not 1 <= port <= 65535:
        raise ValueError("peers.port must be an integer from 1 to 65535")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError("peers.token must be 16 to 128 letters, digits, - or _")
    unknown += [f"peers.{key}" for key in sorted(raw.keys() - {"hosts", "port", "token"})]
    return Sharing(hosts=tuple(hosts), port=port, token=token)


def _host(value: Any) -> bool:
    return isinstance(value, str) and _HOST.fullmatch(value) is not None
