"""How this runtime gets at sources: what settings say, and the files of mounted Secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeward_runtime.fetch.credentials import Credentials
from edgeward_runtime.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class S3:
    endpoint: str = ""  # "" for Amazon's, by region
    region: str = ""
    addressing: str = "auto"  # auto | virtual | path: where the bucket's name is
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    credentials: Credentials = field(default_factory=Credentials)
    ca_bundle: Path | None = None  # PEM, trusted beside the system's
    plain_http: frozenset[str] = frozenset()  # registries, HOST[:PORT], that are spoken to without TLS
    s3: S3 = field(default_factory=S3)
    wall: Callable[[], float] = time.time  # only for the date in a signature


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    max_bytes: int
    timeout_seconds: float  # for a connect or a read
    total_seconds: float  # for one attempt at one source
    bits_per_second: float = 0.0  # 0 = as fast as it goes


def access_of(settings: Settings) -> Access:
    return Access(
        credentials=Credentials(folder=settings.credentials_dir),
        ca_bundle=settings.ca_bundle,
        plain_http=settings.plain_http_registries,
        s3=S3(
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            addressing=settings.s3_addressing,
            access_key_id=settings.s3_access_key_id,
            secret_access_key=settings.s3_secret_access_key,
            session_token=settings.s3_session_token,
        ),
    )


def limits_of(settings: Settings) -> Limits:
    return Limits(
        max_bytes=settings.max_model_bytes,
        timeout_seconds=settings.fetch_timeout_seconds,
        total_seconds=settings.fetch_total_seconds,
        bits_per_second=settings.fetch_bits_per_second,
    )
