"""One client per cluster: raw JSON in and out, a time limit on every call, every write counted and guarded.

Typed models are left out on purpose: decoding a large list into them costs seven times the time and stalls the loop.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, ApiException, Configuration

from .resources import Object, Resource

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
PAGE = 500
WRITE_LIMIT = 4.0
"""seconds that a write may take: less than between the moment a leader stops to write and the end of its Lease"""


class ApiError(Exception):
    """The API refused a request. `status` is the HTTP code, 0 when there was no answer at all."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def invalid(self) -> bool:
        """The object itself is wrong: trying again without a change is pointless.

        A field that the schema does not have comes back from server-side apply as 500, with these words.
        """
        unknown_field = self.status == 500 and "failed to create typed patch object" in self.message
        return self.status in (400, 403, 422) or unknown_field


class WriteRefused(Exception):
    """A write was held back because this process may no longer write (it lost its Lease)."""


class Client:
    """Talks to one API server.

    `guard` is called immediately before every write and raises WriteRefused when the process must not write any more.
    `writes` counts what was sent, by verb and kind, so that "an idle minute writes nothing" can be checked.
    """

    def __init__(self, configuration: Configuration, *, connect_timeout: float = 3.0, timeout: float = 10.0) -> None:
        self._configuration = configuration
        self._api = ApiClient(configuration)
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self.guard: Callable[[], None] = lambda: None
        self.writes: Counter[str] = Counter()

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, *, kubeconfig: str | None = None, context: str | None = None, call_limit: float = 10.0
    ) -> AsyncIterator[Client]:
        """Inside a pod by its service account, elsewhere by a kubeconfig (the usual one when none is named) and one of
        its contexts (the present one). Raises ApiError when there is none that can be used."""
        configuration = Configuration()
        try:
            await _configure(configuration, kubeconfig, context)
        except kube_config.ConfigException as error:
            raise ApiError(0, "NoKubeconfig", str(error)) from error
        # More than all that is ever sent at once (the hub's and the agent's writes, Events, reads): the time that a call
        # waits for a connection would count as the server's.
        configuration.connection_pool_maxsize = 64
        # With trust_env each request asks a thread for ~/.netrc first; it is wanted for proxies only.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
        client = cls(configuration, timeout=call_limit)
        try:
            yield client
        finally:
            await client.close()

    async def close(self) -> None:
        await self._api.close()

    async def credentials(self) -> dict[str, str | None]:
        """Where the server is and what to show it, for a second client of the same cluster (kopf's)."""
        settings = await self._configuration.auth_settings()
        token = settings.get("BearerToken", {}).get("value")
        return {
            "server": self._configuration.host,
            "ca_path": self._configuration.ssl_ca_cert,
            "certificate_path": self._configuration.cert_file,
            "private_key_path": self._configuration.key_file,
            "scheme": "Bearer" if token else None,
            "token": token.split(" ", 1)[-1].strip() if token else None,
        }

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        headers: Mapping[str, str] | None = None,
        limit: float | None = None,
    ) -> Any:
        """`limit`: seconds this call may take when the client's own limit does not suit it."""
        sent = {"Accept": accept, "Content-Type": content_type, **(headers or {})}
        await self._api.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = await self._api.rest_client.request(
                method, url, headers=sent, body=body, _request_timeout=self._limited(limit)
            )
            raw = await response.read()
        except ApiException as error:
            raise ApiError(error.status or 0, error.reason or "", _message(error.body)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, type(error).__name__, str(error) or "no answer in time") from error
        if not 200 <= response.status <= 299:
            raise ApiError(response.status, response.reason or "", _message(raw))
        try:
            return json.loads(raw) if raw else {}
        except ValueError as error:
            raise ApiError(0, "NotJson", f"answered something that is not JSON: {_message(raw)}") from error

    def _limited(self, limit: float | None) -> aiohttp.ClientTimeout:
        return self._timeout if limit is None else aiohttp.ClientTimeout(total=limit, connect=limit)

    async def list(
        self, resource: Resource, *, namespace: str = "", selector: str = "", metadata_only: bool = False
    ) -> tuple[list[Object], str]:
        """All objects, page by page, and the resource version of the list."""
        items: list[Object] = []
        query = {"limit": str(PAGE)}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = await self.request(
                "GET",
                resource.path(namespace),
                query=query,
                accept=METADATA_ONLY if metadata_only else "application/json",
            )
            items += page.get("items") or []
            meta = page["metadata"]
            if not meta.get("continue"):
                return items, meta.get("resourceVersion", "")
            query["continue"] = meta["continue"]

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        found: Object = await self.request("GET", resource.path(namespace, name))
        return found

    async def apply(
        self, resource: Resource, body: Object, *, manager: str, subresource: str = "", strict: bool = False
    ) -> Object:
        """Server-side apply. A resourceVersion in the body makes it conditional: 409 when the object is newer."""
        meta = body["metadata"]
        query = {"fieldManager": manager, "force": "true"}
        if strict:
            query["fieldValidation"] = "Strict"
        path = resource.path(meta.get("namespace", ""), meta["name"], subresource)
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self._write("apply", resource, "PATCH", path, query=query, body=full, content_type=APPLY)

    async def create(self, resource: Resource, body: Object, *, manager: str) -> Object:
        path = resource.path(body["metadata"].get("namespace", ""))
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self._write("create", resource, "POST", path, query={"fieldManager": manager}, body=full)

    async def merge(self, resource: Resource, namespace: str, name: str, patch: Object, *, manager: str) -> Object:
        path = resource.path(namespace, name)
        return await self._write(
            "patch", resource, "PATCH", path, query={"fieldManager": manager}, body=patch, content_type=MERGE
        )

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str = "") -> None:
        """Gone already is fine. With `uid`, a namesake that came later is left alone."""
        body: Object = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        with contextlib.suppress(_Gone):
            await self._write("delete", resource, "DELETE", resource.path(namespace, name), body=body)

    async def _write(self, verb: str, resource: Resource, method: str, path: str, **request: Any) -> Object:
        self.guard()
        self.writes[f"{verb} {resource.kind}"] += 1
        try:
            answer: Object = await self.request(method, path, limit=WRITE_LIMIT, **request)
        except ApiError as error:
            if verb == "delete" and error.status in (404, 409):
                raise _Gone from error
            raise
        return answer


async def _configure(configuration: Configuration, kubeconfig: str | None, context: str | None) -> None:
    if kubeconfig is None and context is None:
        try:
            kube_config.load_incluster_config(client_configuration=configuration)
            return
        except kube_config.ConfigException:
            pass
    await kube_config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)


def namespace_of(*, kubeconfig: str | None, context: str | None) -> str:
    """What kubectl would take when none is named: the context's, else "default"."""
    try:
        contexts, active = kube_config.list_kube_config_contexts(config_file=kubeconfig)
    except kube_config.ConfigException:
        return "default"
    chosen = next((item for item in contexts if item["name"] == context), None) if context else active
    return str(((chosen or {}).get("context") or {}).get("namespace") or "default")


class _Gone(Exception):
    """What was to be deleted is not there any more, or has another uid by now."""


def _message(raw: bytes | str | None) -> str:
    """The message of a metav1.Status, or the beginning of whatever came instead."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw or ""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300]
