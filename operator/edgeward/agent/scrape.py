"""Asks the runtimes of this cluster what they serve and what they counted. One slow pod holds up no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterable

import aiohttp

from edgeward.api.common import parse_time
from edgeward.cluster.resources import Object

from .document import CONTRACT
from .exposition import Page, read
from .podtemplate import PORT

LARGEST_ANSWER = 256 * 1024
LARGEST_PAGE = 512 * 1024
AT_ONCE = 32
HASH = re.compile(r"([0-9a-f]{16})?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# A state or a step; those that only a newer runtime knows are shown as others, see report.py.
WORD = re.compile(r"[A-Z][A-Za-z]{0,31}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class RuntimeScraper:
    def __init__(self, *, timeout: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, pods: Iterable[Object]) -> dict[str, Object]:
        """Answers by pod uid. A pod that does not answer, or answers something else, is not in the result."""
        pods = list(pods)
        answers = await asyncio.gather(*(self._ask(pod) for pod in pods))
        return {pod["metadata"]["uid"]: answer for pod, answer in zip(pods, answers, strict=True) if answer is not None}

    async def count(self, pods: Iterable[Object], note: Callable[[str, Page], None]) -> None:
        """Calls `note` with the uid and the counters of each pod that answers, as it does: what a thousand pages make
        together is never held at once."""

        async def one(pod: Object) -> None:
            body = await self._get(pod, "/metrics", most=LARGEST_PAGE)
            if body is not None:
                with contextlib.suppress(ValueError):
                    note(pod["metadata"]["uid"], read(body.decode()))

        await asyncio.gather(*(one(pod) for pod in pods))

    async def _ask(self, pod: Object) -> Object | None:
        body = await self._get(pod, "/edgeward/v1/status", most=LARGEST_ANSWER)
        try:
            answer = None if body is None else json.loads(body)
        except (ValueError, RecursionError):
            return None
        return answer if believable(answer) else None

    async def _get(self, pod: Object, path: str, *, most: int) -> bytes | None:
        """The body of a 200; None for anything else, and beyond `most` bytes."""
        address = pod.get("status", {}).get("podIP")
        if not address:
            return None
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=False)
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._slots, self._session.get(f"http://{host}:{PORT}{path}") as response:
                return await _whole(response, most) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None


async def _whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body to its end, which may come in pieces. Raises ValueError beyond `most` bytes."""
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise ValueError("too long")
    return body


def believable(answer: object) -> bool:
    """Whether an answer has the shape of the contract. Schema: edge-runtime/contract/status.schema.json

    Exact, because what is let through is written into a status: a value that the API refuses there would hold up the
    report of the whole Assignment.
    """
    if not isinstance(answer, dict) or type(answer.get("contract")) is not int or answer["contract"] != CONTRACT:
        return False
    models = answer.get("models")
    return _count(answer.get("revision")) and isinstance(models, list) and all(map(_model, models))


def _model(model: object) -> bool:
    if not isinstance(model, dict):
        return False
    state, serving, refused = model.get("state"), model.get("serving"), model.get("refused")
    return (
        all(isinstance(model.get(field), str) and model[field] for field in ("name", "version"))
        and isinstance(model.get("digest"), str)
        and DIGEST.fullmatch(model["digest"]) is not None
        and isinstance(state, str)
        and WORD.fullmatch(state) is not None
        and isinstance(serving, bool)
        and (serving or state != "Serving")
        and _time(model.get("since"))
        and ("parameters" not in model or _hash(model["parameters"]))
        and all(field not in model or _count(model[field]) for field in ("bytes", "received", "shared"))
        and ("seconds" not in model or _duration(model["seconds"]))
        and (state != "Failed" if "refused" not in model else _refusal(refused))
        and ("warning" not in model or _refusal(model["warning"]))
    )


def _hash(value: object) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value <= 2**53


def _duration(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9  # type: ignore[operator]


def _time(value: object) -> bool:
    try:
        return isinstance(value, str) and TIME.fullmatch(value) is not None and parse_time(value) > 0
    except ValueError:
        return False


def _refusal(refused: object) -> bool:
    return (
        isinstance(refused, dict)
        and isinstance(refused.get("step"), str)
        and WORD.fullmatch(refused["step"]) is not None
        and all(isinstance(refused.get(field), str) for field in ("reason", "message"))
        and _time(refused.get("at"))
    )
