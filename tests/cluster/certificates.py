"""A certificate authority for one test cluster, made with the openssl program, and kubeconfigs that use it.

Keys are P-256: a dozen of them take a tenth of a second where RSA takes seconds.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .progress import ClusterError

_DAYS = "365"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, kw_only=True)
class Pair:
    certificate: Path
    key: Path


def _openssl(*arguments: str) -> None:
    try:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise ClusterError("openssl is missing; install the Debian package openssl") from None
    if done.returncode != 0:
        raise ClusterError(f"openssl {arguments[0]} failed: {done.stderr.strip()[-400:]}")


class Authority:
    """Issues into one directory; asking again for a name returns what is there."""

    def __init__(self, directory: Path, *, name: str = "ca"):
        self.directory = directory
        self.pair = Pair(certificate=directory / f"{name}.crt", key=directory / f"{name}.key")
        if not self.pair.certificate.exists():
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            _openssl(
                "req", "-x509", *_KEY, "-days", _DAYS, "-subj", f"/CN=edgeward-{name}",
                "-keyout", str(self.pair.key), "-out", str(self.pair.certificate),
                "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            )  # fmt: skip

    def issue(
        self, name: str, *, user: str, groups: Sequence[str] = (), dns: Sequence[str] = (), ips: Sequence[str] = ()
    ) -> Pair:
        """A certificate for CN=user, O=each group; good for servers too when it names dns or ips."""
        pair = Pair(certificate=self.directory / f"{name}.crt", key=self.directory / f"{name}.key")
        if pair.certificate.exists():
            return pair
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        half = self.directory / f"{name}.new"  # the certificate's existence says that it is whole
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        names = [*(f"DNS:{value}" for value in dns), *(f"IP:{value}" for value in ips)]
        lines = ["basicConstraints=CA:FALSE", "keyUsage=digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
        if names:
            lines.append("subjectAltName=" + ",".join(names))
        extensions.write_text("\n".join(lines) + "\n")
        _openssl("req", *_KEY, "-subj", subject, "-keyout", str(pair.key), "-out", str(request))
        _openssl(
            "x509", "-req", "-in", str(request), "-days", _DAYS, "-extfile", str(extensions),
            "-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key),
            "-set_serial", str(secrets.randbits(63)), "-out", str(half),
        )  # fmt: skip
        half.rename(pair.certificate)
        request.unlink()
        extensions.unlink()
        return pair


def signing_key(path: Path) -> tuple[Path, Path]:
    """The key for service account tokens, as (private, public) files."""
    public = path.with_suffix(".pub")
    if not public.exists():
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))
        _openssl("ec", "-in", str(path), "-pubout", "-out", str(public))
    return path, public


def write_kubeconfig(path: Path, *, name: str, server: str, authority: Path, pair: Pair) -> Path:
    """A kubeconfig that holds everything inside itself. JSON, which is YAML too."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": inline(authority)}
    user = {"client-certificate-data": inline(pair.certificate), "client-key-data": inline(pair.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
    return path
