"""Asks the runtimes of this cluster what they serve. One slow pod holds up no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import aiohttp

from edgeward.cluster.resources import Object

from .render import CONTRACT, PORT
from .report import STATES

LARGEST_ANSWER = 256 * 1024
AT_ONCE = 32


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

    async def _ask(self, pod: Object) -> Object | None:
        address = pod.get("status", {}).get("podIP")
        if not address:
            return None
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=False)
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._slots, self._session.get(f"http://{host}:{PORT}/edgeward/v1/status") as response:
                if response.status != 200:
                    return None
                answer = json.loads(await response.content.read(LARGEST_ANSWER))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        return answer if believable(answer) else None


def believable(answer: object) -> bool:
    """Whether an answer has the shape of the contract. Schema: edge-runtime/contract/status.schema.json"""
    if not isinstance(answer, dict) or answer.get("contract") != CONTRACT or not isinstance(answer.get("models"), list):
        return False
    return all(
        isinstance(model, dict)
        and isinstance(model.get("serving"), bool)
        and all(isinstance(model.get(field), str) for field in ("name", "version", "digest"))
        and model.get("state") in STATES
        and _refusal(model.get("refused"))
        for model in answer["models"]
    )


def _refusal(refused: object) -> bool:
    if refused is None:
        return True
    return isinstance(refused, dict) and all(
        isinstance(refused.get(field), str) for field in ("step", "reason", "message", "at")
    )
