"""An API server in memory for loops at the rim: objects by path, optimistic concurrency, and a record of requests."""

from __future__ import annotations

import copy
from typing import Any

from edgeward.cluster.client import ApiError, Client

Raw = dict[str, Any]


class FakeClient(Client):
    """The real Client with its one door to the network replaced: guard, counting and error mapping are the real ones."""

    def __init__(self, server: FakeServer | None = None) -> None:
        from collections import Counter

        self.server = server or FakeServer()
        self.guard = lambda: None
        self.writes = Counter()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        limit: float | None = None,
    ) -> Any:
        return self.server.answer(method, path, body)


class FakeServer:
    """`failing` is raised instead of an answer, once per entry."""

    def __init__(self) -> None:
        self.objects: dict[str, Raw] = {}
        self.requests: list[tuple[str, str]] = []
        self.failing: list[ApiError] = []
        self.version = 0

    def answer(self, method: str, path: str, body: Any) -> Raw:
        self.requests.append((method, path))
        if self.failing:
            raise self.failing.pop(0)
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ApiError(409, "AlreadyExists", path)
            return self._store(path, body)
        if path not in self.objects:
            raise ApiError(404, "NotFound", path)
        if method == "GET":
            return copy.deepcopy(self.objects[path])
        if method == "DELETE":
            return self.objects.pop(path)
        given = body.get("metadata", {}).get("resourceVersion")
        if given not in (None, self.objects[path]["metadata"]["resourceVersion"]):
            raise ApiError(409, "Conflict", path)
        return self._store(path, {**self.objects[path], **body} if method == "PATCH" else body)

    def _store(self, path: str, body: Raw) -> Raw:
        self.version += 1
        kept = self.objects.get(path, {}).get("metadata", {})
        meta = {**kept, **body.get("metadata", {}), "resourceVersion": str(self.version)}
        self.objects[path] = copy.deepcopy({**body, "metadata": meta})
        return copy.deepcopy(self.objects[path])
