"""One repository of a registry, read: its tags, what a tag points to, and whether that is signed. Blocking; Refusal (from
edgeward_runtime.errors) says what is wrong."""

from __future__ import annotations

import http.client
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.artifact import manifest
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import http as web
from edgeward_runtime.fetch import oci, refusals
from edgeward_runtime.fetch.access import Access
from edgeward_runtime.fetch.credentials import Credentials
from edgeward_runtime.publish.registry import Uploads
from edgeward_runtime.trust import bundle, keys

__all__ = ["Cancelled", "Models", "Pointed", "Reach", "Refusal"]
_PAGE = 1000  # tags asked for at a time; a registry may give fewer
_MAX_PAGES = 100
_MAX_TAGS = 50_000
_MAX_BYTES = 4 << 20  # of a page
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # OCI distribution-spec
_VERSION = "org.opencontainers.image.version"
_PLAIN = re.compile(r"[A-Za-z0-9]([-+._A-Za-z0-9]{0,61}[A-Za-z0-9])?")  # what a release takes for a version
_NEXT = re.compile(r'<([^<>]{1,2048})>\s{0,8};\s{0,8}rel="?next"?')


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How registries are got at."""

    plain_http: frozenset[str] = frozenset()
    """HOST[:PORT] that are spoken to without TLS"""
    ca_bundle: Path | None = None
    """PEM, trusted beside the system's"""
    timeout: float = 10.0
    """seconds for a connect or one read"""
    total: float = 30.0
    """seconds for one request with all of its answer"""
    look: float = 120.0
    """seconds for all that is asked of one repository at a time"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointed:
    """What a tag or a digest names."""

    digest: str
    version: str = ""
    """as the manifest says"""


class Models:
    """The models of one repository, for one look. login: a docker config JSON, b"" for none."""

    def __init__(
        self,
        address: str,
        *,
        reach: Reach,
        login: bytes = b"",
        cancelled: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cancelled, self._clock, self._reach = cancelled, clock, reach
        self._end = clock() + reach.look
        access = Access(
            credentials=Credentials(configs=(login,) if login else ()),
            ca_bundle=reach.ca_bundle,
            plain_http=reach.plain_http,
        )
        client = web.Client(
            timeout=reach.timeout, ca_bundle=reach.ca_bundle, total=reach.total or math.inf, cancelled=self._over
        )
        self._repository = oci.Repository(address, digest=None, client=client, access=access)
        self._reads = Uploads(self._repository)
        self.address = self._repository.address

    def _over(self) -> bool:
        return self._cancelled() or self._clock() > self._end

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """A registry that is slow with each of many answers must not hold up for hours those that it shares a host with."""
        try:
            yield
        except Cancelled:
            if self._cancelled():
                raise
            raise refusals.unreachable(self.address, f"a look took more than {self._reach.look:g} s") from None

    def tags(self) -> list[str]:
        """All of them, page by page (OCI distribution-spec, "Listing Tags")."""
        found: set[str] = set()
        path: str | None = f"tags/list?n={_PAGE}"
        asked: set[str] = set()
        while path is not None and path not in asked:
            asked.add(path)
            text, path = self._page(path)
            found.update(self._read(text))
            if len(found) > _MAX_TAGS or len(asked) > _MAX_PAGES:
                raise refusals.unreachable(
                    self.address, f"has more than {_MAX_TAGS} tags or {_MAX_PAGES} pages of them"
                )
        return sorted(found)

    def _page(self, path: str) -> tuple[bytes, str | None]:
        """A page of tags, and where the next one is."""
        with self._in_time(), self._repository.ask(path, {}) as response:
            if response.status != 200:
                raise web.refused(self.address, response)
            try:
                text = response.read(_MAX_BYTES + 1)
            except (OSError, http.client.HTTPException) as error:
                raise refusals.unreachable(self.address, refusals.reason_text(error)) from None
            more = _NEXT.search(response.headers.get("Link", ""))
        if len(text) > _MAX_BYTES:
            raise refusals.too_large(self.address, len(text), _MAX_BYTES)
        return text, more[1] if more else None

    def _read(self, text: bytes) -> list[str]:
        """Those that are tags: no other name may get into an address, or into what versions are compared by."""
        try:
            tags = json.loads(text)["tags"] or []  # null where all tags were deleted
        except (ValueError, KeyError, TypeError, RecursionError):
            raise refusals.unreachable(self.address, "its list of tags cannot be read") from None
        every = tags if isinstance(tags, list) else []
        return [one for one in every if isinstance(one, str) and _TAG.fullmatch(one)]

    def model(self, reference: str) -> Pointed:
        """What a tag or a digest names, if that is a model. Refusal NotFound if there is none, UnsupportedArtifact if it
        is something else."""
        with self._in_time():
            found = self._reads.tagged(reference)
        if found is None:
            raise refusals.refusal("NotFound", f"{self.address} has no {reference}")
        digest, content = found
        if reference.startswith("sha256:") and digest != reference:
            raise refusals.mismatch(self.address, f"gives {digest} for {reference}")
        said = manifest.parse(content, max_bytes=2**63).annotations.get(_VERSION, "")
        return Pointed(digest=digest, version=said if _PLAIN.fullmatch(said) else "")

    def check_signed(self, digest: str, by: Sequence[str]) -> None:
        """Returns if one of the keys (public, PEM) has signed it; else Refusal SignatureMissing, SignatureInvalid or
        BadKey."""
        with self._in_time():
            found = self._reads.tagged(bundle.tag(digest))
            if found is None:
                message = f"nobody signed {digest}"
                raise Refusal(step="Signature", reason="SignatureMissing", message=message, permanent=False)
            signed = [
                bundle.Signed(self._reads.content(one.digest, size=one.size), one.signature)
                for one in bundle.pointers(found[1])
            ]
        keys.verify(digest, signed, by)
