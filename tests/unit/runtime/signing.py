"""Keys for tests, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edgeward_runtime.trust import bundle, keys


@dataclass(frozen=True)
class Pair:
    private: bytes  # PEM
    public: str  # PEM

    def signs(self, *digests: str) -> bytes:
        """What lies beside a plain file."""
        return bundle.dumps([keys.sign(digest, self.private) for digest in digests])


@lru_cache
def pair(kind: str = "ed25519", name: str = "release") -> Pair:
    """The same for the same kind and name. Kinds: ed25519, and what cryptography calls its curves."""
    private = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[kind])
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Pair(private=pem, public=public.decode())
