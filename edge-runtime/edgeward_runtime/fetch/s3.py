"""s3:// sources: an object of Amazon S3 or of a store that speaks like it, signed with Signature Version 4 (AWS, "Signing
and authenticating REST requests"), or anonymous where there are no keys."""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPResponse

from edgeward_runtime.fetch import http as web
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.access import Access
from edgeward_runtime.fetch.source import Opened, Source
from edgeward_runtime.store.partial import Origin

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_EMPTY = hashlib.sha256(b"").hexdigest()
_DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def source(address: str, *, client: web.Client, access: Access) -> Source:
    """`s3://BUCKET/KEY`. Refusal if it is not that."""
    settings, files = access.s3, access.credentials
    region = settings.region or files.text("AWS_REGION") or _DEFAULT_REGION
    endpoint = settings.endpoint or files.text("AWS_ENDPOINT_URL")
    url = object_url(address, endpoint=endpoint, region=region, addressing=settings.addressing)
    keys = _keys(access)
    skew = 0.0  # seconds that the store's clock is ahead of ours

    @contextmanager
    def ask(headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
        nonlocal skew
        for again in (False, True):
            now = datetime.datetime.fromtimestamp(access.wall() + skew, tz=datetime.UTC)
            private = signature(url, headers, keys=keys, region=region, now=now) if keys else {}
            with client.request(url, headers=headers, private=private) as response:
                if again or response.status != 403 or not keys or b"RequestTimeTooSkewed" not in response.read(8192):
                    yield response
                    return
                # Our clock is wrong. The store says what it takes for the time.
                skew = _skew(response.headers, access.wall())

    @contextmanager
    def open_(offset: int, origin: Origin) -> Iterator[Opened]:
        for start in dict.fromkeys((offset, 0)):
            with ask(web.range_headers(address, start, origin)) as response:
                answer = web.opened(address, response, start)
                if answer is not None:
                    yield answer
                    return
        raise refusals.unreachable(address, "gives neither the rest nor the whole")

    @contextmanager
    def part(start: int, end: int) -> Iterator[Opened]:
        with ask(web.part_headers(start, end)) as response:
            yield web.opened_part(address, response, start)

    def size() -> int | None:
        with part(0, 1) as found:
            return found.total

    return Source(address=address, open=open_, part=part, size=size)


def object_url(address: str, *, endpoint: str, region: str, addressing: str) -> str:
    """Where the object is. "auto" puts the bucket into the host's name at Amazon, if TLS takes it there (no dots), and
    into the path elsewhere, where such host names seldom exist."""
    bucket, _, key = address.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket) or not key:
        raise refusals.unsupported(address, "is not s3://BUCKET/KEY")
    base = endpoint.rstrip("/") or f"https://s3.{region}.amazonaws.com"
    if not base.startswith(("http://", "https://")):
        raise refusals.unsupported(address, "the endpoint is not an http or https address")
    path = urllib.parse.quote(key, safe="/-_.~")
    virtual = addressing == "virtual" or (addressing == "auto" and not endpoint and "." not in bucket)
    if not virtual:
        return f"{base}/{bucket}/{path}"
    scheme, _, host = base.partition("://")
    return f"{scheme}://{bucket}.{host}/{path}"


def signature(
    url: str, headers: Mapping[str, str], *, keys: Keys, region: str, now: datetime.datetime
) -> dict[str, str]:
    """The headers that sign a GET of `url` with `headers`: a chain of HMACs, key <- date <- region <- service, over the
    canonical request."""
    parts = urllib.parse.urlsplit(url)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    if keys.session_token:
        added["x-amz-security-token"] = keys.session_token
    signed = {"host": parts.netloc, **{name.lower(): value.strip() for name, value in headers.items()}, **added}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = "\n".join(["GET", parts.path or "/", parts.query, lines, names, _EMPTY])
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    proof = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={keys.access_key_id}/{scope}"
    return {**added, "Authorization": f"AWS4-HMAC-SHA256 {credential},SignedHeaders={names},Signature={proof}"}


def _keys(access: Access) -> Keys | None:
    settings, files = access.s3, access.credentials
    if settings.access_key_id:
        return Keys(
            access_key_id=settings.access_key_id,
            secret_access_key=settings.secret_access_key,
            session_token=settings.session_token,
        )
    if name := files.text("AWS_ACCESS_KEY_ID"):
        return Keys(
            access_key_id=name,
            secret_access_key=files.text("AWS_SECRET_ACCESS_KEY"),
            session_token=files.text("AWS_SESSION_TOKEN"),
        )
    return None


def _skew(headers: Message, wall: float) -> float:
    try:
        return email.utils.parsedate_to_datetime(headers.get("Date", "")).timestamp() - wall
    except (ValueError, TypeError):
        return 0.0
