"""Settings from the environment, checked at start: a wrong or unknown one ends the program with a sentence that names
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeward_runtime.guard import OPEN_PATHS

_PREFIX = "EDGEWARD_"


class SettingsError(ValueError):
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    config_dir: Path = Path("/etc/edgeward/job")
    store: Path = Path("/var/lib/edgeward/store")
    host: str = "0.0.0.0"  # noqa: S104 a pod is reached by its own address
    port: int = 8080
    grpc_port: int = 0  # 0 = no gRPC, and nothing of it in memory
    token_file: Path | None = None  # who has one of its tokens may ask; None: everybody
    tls_cert_file: Path | None = None  # PEM; with it both ports speak TLS
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None  # PEM; who has a certificate by one of these may ask
    open: frozenset[str] = frozenset()  # what needs neither: health, metrics, status
    log_level: str = "info"
    server_name: str = "edgeward"
    threads: int = 0  # for one run; 0 = from the CPU quota
    batch_rows: int = 0  # that may run together; 0 = measured at warm-up, 1 = none
    queue: int = 256  # requests that may wait or run before 503
    connections: int = 1024  # open at once, beyond it 503
    max_body_bytes: int = 64 * 2**20
    max_json_bytes: int = 8 * 2**20  # of an infer request's JSON, which takes many times its size once parsed
    max_bytes_in_flight: int = 0  # of all request bodies together; 0 = from the memory limit
    max_memory_bytes: int = 0  # of the process, beyond which allocations fail; 0 = from the cgroup, else the machine's
    max_model_bytes: int = 4 * 2**30
    drain_seconds: float = 2.0  # not ready, still accepting, after SIGTERM: the time endpoints need to forget the pod
    grace_seconds: float = 20.0  # then for requests in flight; the sum has to stay below the pod's grace period
    poll_seconds: float = 0.5  # how often models.json is looked at
    fetch_timeout_seconds: float = 30.0  # for one connect or read
    fetch_total_seconds: float = 3600.0  # for one attempt at one source
    offload_hold_seconds: float = 0.5  # an answer may wait so long for a better one, without a latency bound of the job
    offload_token_file: Path | None = None  # bearer token for the other server
    fetch_bits_per_second: int = 0  # of downloads, 0 = as fast as it goes
    store_bytes: int = 0  # that the store may hold, 0 = as many as the disk has
    credentials_dir: Path | None = None  # files of mounted Secrets, see fetch/credentials.py
    ca_bundle: Path | None = None  # PEM, trusted by downloads beside the system's
    plain_http_registries: frozenset[str] = frozenset()  # HOST[:PORT]
    s3_endpoint: str = ""  # "" = Amazon's
    s3_region: str = ""
    s3_addressing: str = "auto"
    s3_access_key_id: str = ""
    s3_secret_access_key: str = field(default="", repr=False)
    s3_session_token: str = field(default="", repr=False)


_LOG_LEVELS = ("debug", "info", "warning", "error")


def _number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise SettingsError("is not a number") from None
        if not low <= value <= high:  # also refuses nan
            raise SettingsError(f"is not between {low:g} and {high:g}")
        return value

    return parse


def _level(text: str) -> str:
    if text.lower() not in _LOG_LEVELS:
        raise SettingsError(f"is not one of {', '.join(_LOG_LEVELS)}")
    return text.lower()


def _text(text: str) -> str:
    if not text:
        raise SettingsError("is empty")
    return text


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise SettingsError("is not a file")
    return Path(text)


def _hosts(text: str) -> frozenset[str]:
    hosts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not hosts or any("/" in host for host in hosts):
        raise SettingsError("is not HOST[:PORT], or several with commas between them")
    return hosts


def _open(text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not names or not names <= OPEN_PATHS.keys():
        raise SettingsError(f"is not one of {', '.join(OPEN_PATHS)}, or several with commas between them")
    return names


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise SettingsError("is not an http or https address")
    return text


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise SettingsError(f"is not one of {', '.join(values)}")
        return text

    return parse


_PARSERS: dict[str, Callable[[str], object]] = {
    "config_dir": lambda text: Path(_text(text)),
    "store": lambda text: Path(_text(text)),
    "host": _text,
    "port": _number(int, 0, 65535),
    "grpc_port": _number(int, 0, 65535),
    "token_file": _file,
    "tls_cert_file": _file,
    "tls_key_file": _file,
    "tls_client_ca_file": _file,
    "open": _open,
    "log_level": _level,
    "server_name": _text,
    "threads": _number(int, 0, 1024),
    "batch_rows": _number(int, 0, 1024),
    "queue": _number(int, 1, 100_000),
    "connections": _number(int, 1, 100_000),
    "max_body_bytes": _number(int, 1024, 2**31),
    "max_json_bytes": _number(int, 1024, 2**31),
    "max_bytes_in_flight": _number(int, 0, 2**40),
    "max_memory_bytes": _number(int, 0, 2**50),
    "max_model_bytes": _number(int, 1024, 2**40),
    "drain_seconds": _number(float, 0, 600),
    "grace_seconds": _number(float, 1, 3600),
    "poll_seconds": _number(float, 0.01, 1),
    "fetch_timeout_seconds": _number(float, 0.1, 600),
    "fetch_total_seconds": _number(float, 1, 86400),
    "offload_hold_seconds": _number(float, 0, 60),
    "offload_token_file": _file,
    "fetch_bits_per_second": _number(int, 0, 10**12),
    "store_bytes": _number(int, 0, 2**50),
    "credentials_dir": lambda text: Path(_text(text)),
    "ca_bundle": _file,
    "plain_http_registries": _hosts,
    "s3_endpoint": _url,
    "s3_region": _text,
    "s3_addressing": _one_of("auto", "virtual", "path"),
    "s3_access_key_id": _text,
    "s3_secret_access_key": _text,
    "s3_session_token": _text,
}
# Kubernetes adds variables for every Service of the namespace; one whose name begins with "edgeward" makes such as
# these.
_FROM_SERVICES = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_UDP", "_ADDR", "_PROTO")


def from_environment(environ: Mapping[str, str]) -> Settings:
    values: dict[str, object] = {}
    for key, text in sorted(environ.items()):
        if not key.startswith(_PREFIX):
            continue
        name = key.removeprefix(_PREFIX).lower()
        parser = _PARSERS.get(name)
        if parser is None:
            if "_SERVICE_" in key or key.endswith(_FROM_SERVICES) or "_PORT_" in key:
                continue
            raise SettingsError(
                f"{key} is not a setting; there are {', '.join(_PREFIX + one.upper() for one in _PARSERS)}"
            )
        if name in ("port", "grpc_port") and text.startswith(("tcp://", "udp://")):
            continue  # a Service called "edgeward" gives EDGEWARD_PORT=tcp://10.0.0.1:80
        try:
            values[name] = parser(text)
        except SettingsError as error:
            raise SettingsError(f"{key}={text!r} {error}") from None
    settings = Settings(**values)  # type: ignore[arg-type]
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise SettingsError("EDGEWARD_TLS_CERT_FILE and EDGEWARD_TLS_KEY_FILE go together")
    if settings.tls_client_ca_file is not None and settings.tls_cert_file is None:
        raise SettingsError("EDGEWARD_TLS_CLIENT_CA_FILE needs EDGEWARD_TLS_CERT_FILE")
    if settings.open and settings.token_file is None and settings.tls_client_ca_file is None:
        raise SettingsError("EDGEWARD_OPEN without EDGEWARD_TOKEN_FILE or EDGEWARD_TLS_CLIENT_CA_FILE: all is open")
