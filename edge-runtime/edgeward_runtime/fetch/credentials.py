"""Who this runtime is to registries and object stores: files of mounted Secrets, read anew for every fetch, so that a
rotated Secret holds without a restart.

In the folder itself or in one folder for each Secret:

    .dockerconfigjson, config.json              logins by host, as `docker login` and `kubectl create secret
                                                docker-registry` write them
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,   for s3://; AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL may be there
                                                too
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

_CONFIGS = (".dockerconfigjson", "config.json")
_MAX_FILE = 1 << 20  # bytes; a Secret is no larger


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """repr shows nothing: a login in a traceback or a log line is a leaked one."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # is exchanged for an access token
    registry_token: str = field(default="", repr=False)  # is an access token

    @property
    def basic(self) -> str | None:
        if not self.user and not self.password:
            return None
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    folder: Path | None = None
    configs: tuple[bytes, ...] = field(default=(), repr=False)  # docker config JSON that is in no file

    def login(self, host: str, path: str = "") -> Login | None:
        """For a registry or server at `host` (with its port if it is not the scheme's own); the entry with the longest
        path that `path` begins with wins."""
        best: tuple[int, Login] | None = None
        for config in self._configs():
            auths = config.get("auths")
            for key, raw in auths.items() if isinstance(auths, dict) else ():
                at, _, below = _plain(key).partition("/")
                if below in ("v1", "v2"):
                    below = ""
                if at != host.lower() or not f"{path}/".startswith(f"{below}/" if below else ""):
                    continue
                login = _login(raw)
                if login is not None and (best is None or len(below) > best[0]):
                    best = len(below), login
        return best[1] if best else None

    def text(self, name: str) -> str:
        """The content of the first file of that name, "" if there is none."""
        for folder in self._folders():
            content = _read(folder / name)
            if content is not None:
                return content.decode(errors="replace").strip()
        return ""

    def _configs(self) -> Iterator[dict[str, Any]]:
        files = ((f"{folder.name}/{name}", folder / name) for folder in self._folders() for name in _CONFIGS)
        read = ((where, content) for where, path in files if (content := _read(path)) is not None)
        for where, content in (*read, *(("a given one", one) for one in self.configs)):
            try:
                document = orjson.loads(content)
            except orjson.JSONDecodeError:
                log.warning("logins cannot be read: not JSON", extra={"file": where})
                continue
            if isinstance(document, dict):
                yield document

    def _folders(self) -> list[Path]:
        if self.folder is None:
            return []
        try:
            below = sorted(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".."))
        except OSError:
            return []
        return [self.folder, *below]


def _plain(key: object) -> str:
    return str(key).partition("://")[2].rstrip("/").lower() if "://" in str(key) else str(key).rstrip("/").lower()


def _login(raw: object) -> Login | None:
    if not isinstance(raw, dict):
        return None
    fields = {key: value for key, value in raw.items() if isinstance(value, str)}
    user, password = fields.get("username", ""), fields.get("password", "")
    if not user and fields.get("auth"):
        try:
            user, _, password = base64.b64decode(fields["auth"], validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            log.warning("a login is not what base64 makes, passed over")
            return None
    return Login(
        user=user,
        password=password,
        identity_token=fields.get("identitytoken", ""),
        registry_token=fields.get("registrytoken", ""),
    )


def _read(path: Path) -> bytes | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        log.warning("a credential cannot be read", extra={"file": path.name, "error": error.strerror})
        return None
