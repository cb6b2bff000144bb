"""oci:// sources: manifests and blobs of a registry, each by its digest (OCI distribution-spec), with the token exchange
that registries ask for (its RFC 6750 challenges as the Docker registry's token specification has them)."""

from __future__ import annotations

import http.client
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import orjson

from edgeward_runtime.artifact.manifest import MAX_MANIFEST_BYTES, MEDIA_TYPE
from edgeward_runtime.fetch import http as web
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.access import Access
from edgeward_runtime.fetch.credentials import Login
from edgeward_runtime.fetch.source import Opened, Source
from edgeward_runtime.store.partial import Origin

# The specification's grammar: no empty part, and none of dots alone.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
# Bounded, as is what is looked at: a registry's headers may be megabytes, over which this would take hours.
_MOST_CHALLENGES = 16 * 1024  # characters
_CHALLENGE = re.compile(r'(?P<scheme>[A-Za-z]{1,32})\s{1,8}(?P<fields>(?:[a-z_]+="[^"]*"(?:\s*,\s*)?)+)')
_FIELD = re.compile(r'([a-z_]+)="([^"]*)"')
_MAX_TOKEN_BYTES = 1 << 20


class Repository:
    """One repository of a registry, for the time of one fetch or push: a token is kept that long. `digest`: what the
    address may name, if it names one."""

    def __init__(self, address: str, *, digest: str | None, client: web.Client, access: Access) -> None:
        found = _REFERENCE.fullmatch(address)
        if found is None:
            raise refusals.unsupported(address, "is not oci://REGISTRY/REPOSITORY")
        if found["digest"] not in (None, digest):
            wanted = f"another digest than {digest}" if digest else "a digest"
            raise refusals.unsupported(address, f"names {wanted}")
        self.address = f"oci://{found['host']}/{found['repository']}"
        self._host, self._repository = found["host"], found["repository"]
        self._plain = self._host in access.plain_http
        self._base = f"{'http' if self._plain else 'https'}://{self._host}/v2/{self._repository}"
        self._client = client
        self._login = access.credentials.login(self._host, self._repository)
        self._authorization: str | None = None

    def manifest(self, digest: str) -> bytes:
        """Its bytes, not yet compared with the digest. Who fetches a model never asks for a tag: it may have moved."""
        with self.ask(f"manifests/{digest}", {"Accept": MEDIA_TYPE}) as response:
            if response.status != 200:
                raise web.refused(self.address, response)
            try:
                content = response.read(MAX_MANIFEST_BYTES + 1)
            except (OSError, http.client.HTTPException) as error:
                raise refusals.unreachable(self.address, refusals.reason_text(error)) from None
        if len(content) > MAX_MANIFEST_BYTES:
            raise refusals.too_large(self.address, len(content), MAX_MANIFEST_BYTES)
        return content

    def blob(self, digest: str) -> Source:
        address = f"{self.address}@{digest}"

        @contextmanager
        def open_(offset: int, origin: Origin) -> Iterator[Opened]:
            for start in dict.fromkeys((offset, 0)):
                with self.ask(f"blobs/{digest}", web.range_headers(address, start, origin)) as response:
                    answer = web.opened(address, response, start)
                    if answer is not None:
                        yield answer
                        return
            raise refusals.unreachable(address, "gives neither the rest nor the whole")

        @contextmanager
        def part(start: int, end: int) -> Iterator[Opened]:
            with self.ask(f"blobs/{digest}", web.part_headers(start, end)) as response:
                yield web.opened_part(address, response, start)

        return Source(address=address, open=open_, part=part)

    @contextmanager
    def ask(
        self, path: str, headers: Mapping[str, str], *, method: str | None = None, data: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Asks as who we are so far; told to show more, gets that and asks once more. `path` is below the repository, or
        an address that the registry gave: to another host than its own no login goes."""
        address = urllib.parse.urljoin(f"{self._base}/", path)
        if not self._plain and address.startswith("http://"):
            # A registry behind a proxy that ends TLS does not always know that it is asked with TLS.
            address = f"https://{address.removeprefix('http://')}"
        own = web.origin(address) == web.origin(self._base)
        for again in (False, True):
            private = {"Authorization": self._authorization} if self._authorization and own else {}
            with self._client.request(address, headers=headers, private=private, method=method, data=data) as response:
                # A redirect's target asks for credentials in vain: its challenge would name who they are sent to.
                if (
                    again
                    or response.status != 401
                    or not own
                    or web.origin(response.geturl()) != web.origin(self._base)
                ):
                    yield response
                    return
                challenges = response.headers.get_all("WWW-Authenticate") or []
            self._authorization = self._answer(", ".join(challenges))

    def _answer(self, challenges: str) -> str | None:
        """The Authorization that a registry's challenge asks for; None if there is nothing to show."""
        challenges = challenges[:_MOST_CHALLENGES]
        for found in _CHALLENGE.finditer(challenges):
            fields = dict(_FIELD.findall(found["fields"]))
            if found["scheme"].lower() == "bearer" and "realm" in fields:
                return f"Bearer {self._token(fields)}"
        return self._login.basic if self._login and "basic" in challenges.lower() else None

    def _token(self, fields: dict[str, str]) -> str:
        login = self._login or Login()
        if login.registry_token:
            return login.registry_token
        realm = fields["realm"]
        # A registry names who gives out its tokens. With TLS it must not lead a password out of it.
        if not realm.startswith(("https://", "http://") if self._plain else "https://"):
            raise refusals.refusal("Unauthorized", f"{self.address} asks for a token from an address without TLS")
        asked = {"scope": fields.get("scope", f"repository:{self._repository}:pull")}
        if "service" in fields:
            asked["service"] = fields["service"]
        private, data = {"Authorization": login.basic} if login.basic else {}, None
        if login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.identity_token, "client_id": "edgeward"}
            private, data = {}, urllib.parse.urlencode({**asked, **form}).encode()
        else:
            realm += ("&" if "?" in realm else "?") + urllib.parse.urlencode(asked)
        with self._client.request(realm, headers={}, private=private, data=data) as response:
            if response.status != 200:
                raise web.refused(realm, response)
            try:
                document = orjson.loads(response.read(_MAX_TOKEN_BYTES))
                token = document.get("token") or document.get("access_token")
            except (OSError, http.client.HTTPException) as error:
                raise refusals.unreachable(realm, refusals.reason_text(error)) from None
            except (ValueError, AttributeError):
                token = None
        if not isinstance(token, str) or not token.isascii() or any(one.isspace() for one in token):
            raise refusals.refusal("Unauthorized", f"{refusals.shown(realm)} gives no token")
        return token
