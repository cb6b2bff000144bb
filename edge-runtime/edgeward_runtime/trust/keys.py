"""Which of some public keys has signed a model. The one module that imports cryptography, and only when a key is at
hand: the library takes 13 MB that a server without signatures never uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust.bundle import Signed, payload, signed_digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


def verify(digest: str, signed: Sequence[Signed], keys: Sequence[str]) -> None:
    """Returns if one of the `keys` (public, PEM) made one of the signatures, over a payload that names `digest`.

    Refusal, step Signature: BadKey (permanent) for a key that is none of Ed25519 and ECDSA P-256, whatever the others are;
    SignatureMissing without any signature; SignatureInvalid if none is by these keys or for this digest."""
    public = [_public_key(text, index) for index, text in enumerate(keys)]
    if not public:
        raise _refusal("BadKey", "there is no key to verify with", permanent=True)
    if not signed:
        raise _refusal("SignatureMissing", f"nobody signed {digest}")
    others = []
    for one in signed:
        if not any(_made(key, one) for key in public):
            continue
        # Only now is the payload worth reading.
        named = signed_digest(one.payload)
        if named == digest:
            return
        others.append(named)
    if others:
        raise _refusal("SignatureInvalid", f"a key signed {others[0]}, wanted {digest}")
    raise _refusal("SignatureInvalid", f"none of {len(signed)} signatures is by one of {len(public)} keys")


def sign(digest: str, private_key: bytes) -> Signed:
    """What `verify` takes for `digest`, made with a private key in PEM without password. ValueError for another."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    text = payload(digest)
    key = _private_key(private_key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return Signed(text, key.sign(text, ec.ECDSA(hashes.SHA256())))
    return Signed(text, key.sign(text))


def public_of(private_key: bytes) -> str:
    """The public key in PEM that belongs to a private one, for signature.keys. ValueError as `sign`."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _private_key(private_key).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private_key(text: bytes) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("no private key in PEM without password") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError("neither an Ed25519 nor an ECDSA P-256 key")


def _public_key(text: str, index: int) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _refusal("BadKey", f"signature.keys[{index}] is no public key in PEM", permanent=True) from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise _refusal("BadKey", f"signature.keys[{index}] is neither Ed25519 nor ECDSA P-256", permanent=True)


def _made(key: PublicKey, signed: Signed) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed.signature, signed.payload, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signed.signature, signed.payload)
    except InvalidSignature:
        return False
    return True


def _refusal(reason: str, message: str, *, permanent: bool = False) -> Refusal:
    return Refusal(step="Signature", reason=reason, message=message, permanent=permanent)
