import base64
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from edgeward_runtime.artifact import manifest
from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust import bundle, keys
from edgeward_runtime.trust.bundle import Signed

from .signing import pair

D = f"sha256:{'d' * 64}"
OTHER = f"sha256:{'e' * 64}"

# Made with the openssl program, over a payload as cosign writes it:
#   openssl dgst -sha256 -sign ec.pem payload; openssl pkeyutl -sign -inkey ed.pem -rawin -in payload
PAYLOAD = (
    b'{"critical":{"identity":{"docker-reference":"shop/signs"},"image":{"docker-manifest-digest":"%b"},'
    b'"type":"cosign container image signature"},"optional":null}' % D.encode()
)
P256 = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEggnE6Qm5KzTKjsfUvkuxX9CtyTwa
/PqheMDHeK9zJqMrS2qmHOhUk7A92jyASRMNYHgzwiXiltFrRIN1gahKxQ==
-----END PUBLIC KEY-----
"""
BY_P256 = base64.b64decode(
    "MEUCIHWVWp5ABH2b4NjeMjGg72366NeajbZYCVkcr/28YiqMAiEA1fmSkzxqAxKsjoLs5cAhuAkGuW5uJ+QwZTA3RjADY4g="
)
ED25519 = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAPjcDIavBM2k9RWg/kwXwn76Ycybd83A0X1wdmKRAVU0=
-----END PUBLIC KEY-----
"""
BY_ED25519 = base64.b64decode(
    "Sb+wSU8VYxWGqbOuswZuyj6MKl17u+noYYDYyPx509yI9w/qMIh3mO0cAoCx5j1N5lVjULIoXZS/OvF4F7BqDA=="
)


def refused(digest: str, signed: list[Signed], public: list[str]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        keys.verify(digest, signed, public)
    assert caught.value.step == "Signature"
    return caught.value


@pytest.mark.parametrize(("key", "signature"), [(P256, BY_P256), (ED25519, BY_ED25519)])
def test_signatures_made_by_openssl(key: str, signature: bytes) -> None:
    keys.verify(D, [Signed(PAYLOAD, signature)], [key])
    tampered = bytes([*signature[:-1], signature[-1] ^ 1])
    for signed, digest in (
        (Signed(PAYLOAD, tampered), D),
        (Signed(PAYLOAD.replace(b"d" * 64, b"e" * 64), signature), OTHER),
        (Signed(PAYLOAD + b" ", signature), D),
        (Signed(PAYLOAD, b""), D),
        (Signed(PAYLOAD, signature), OTHER),
    ):
        assert refused(digest, [signed], [key]).reason == "SignatureInvalid"


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_one_of_the_keys_and_one_of_the_signatures_is_enough(kind: str) -> None:
    mine, stranger = pair(kind), pair(kind, "stranger")
    signed = [keys.sign(D, stranger.private), Signed(b"", b"\0"), keys.sign(D, mine.private)]
    keys.verify(D, signed, [P256, mine.public, ED25519])
    assert refused(D, signed[:2], [mine.public]).reason == "SignatureInvalid"


def test_a_signature_of_another_model_is_named() -> None:
    mine = pair()
    refusal = refused(D, [keys.sign(OTHER, mine.private)], [mine.public])
    assert (refusal.reason, refusal.permanent) == ("SignatureInvalid", False)
    assert refusal.message == f"a key signed {OTHER}, wanted {D}"


def test_no_signature_at_all() -> None:
    refusal = refused(D, [], [pair().public])
    assert (refusal.reason, refusal.permanent) == ("SignatureMissing", False)


@pytest.mark.parametrize(
    "bad",
    ["", "no key", pair("p384").public, pair().private.decode(), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"],
)  # fmt: skip
def test_a_key_that_is_none_is_refused_for_good_whatever_the_others_are(bad: str) -> None:
    mine = pair()
    refusal = refused(D, [keys.sign(D, mine.private)], [mine.public, bad])
    assert (refusal.reason, refusal.permanent) == ("BadKey", True)
    assert "keys[1]" in refusal.message
    assert refused(D, [], []).reason == "BadKey"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"critical": 1}',
        b'{"critical": {"image": {"docker-manifest-digest": 1}, "type": "cosign container image signature"}}',
        PAYLOAD.replace(b"cosign container image signature", b"atomic container signature"),
    ],
)
def test_what_a_key_signed_for_another_purpose_says_nothing_of_a_model(text: bytes) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    mine = pair()
    signature = load_pem_private_key(mine.private, None).sign(text)  # type: ignore[union-attr, call-arg]
    assert refused(D, [Signed(text, signature)], [mine.public]).reason == "SignatureInvalid"


def test_only_plain_private_keys_sign() -> None:
    for bad in (b"", pair("p384").private, pair().public.encode()):
        with pytest.raises(ValueError, match="key"):
            keys.sign(D, bad)


def test_the_signature_file() -> None:
    signed = (Signed(b"a", b"\0\1"), Signed(PAYLOAD, BY_P256))
    assert bundle.loads(bundle.dumps(signed)) == signed
    for text in (
        b"",
        b"[]",
        b"{}",
        b'{"signatures": {}}',
        b'{"signatures": [1]}',
        b'{"signatures": [{"payload": "AA=="}]}',
        b'{"signatures": [{"payload": "not base64!", "signature": "AA=="}]}',
        orjson.dumps({"signatures": [{}] * 33}),
        b" " * (bundle.MAX_BYTES + 1),
    ):
        with pytest.raises(Refusal, match="SignatureInvalid"):
            bundle.loads(text)


def test_signatures_in_a_registry_lie_as_cosign_puts_them() -> None:
    mine = pair()
    signed = keys.sign(D, mine.private)
    text, blobs = bundle.build_manifest([signed])
    document = orjson.loads(text)
    assert document["layers"][0]["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    assert (
        base64.b64decode(document["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"]) == signed.signature
    )
    assert signed.payload in blobs
    pointer = bundle.pointers(text)[0]
    assert (pointer.digest, pointer.size) == (manifest_digest(signed.payload), len(signed.payload))
    assert bundle.tag(D) == f"sha256-{'d' * 64}.sig"


def manifest_digest(data: bytes) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_signature_manifest_may_hold_other_things_but_no_nonsense() -> None:
    good = {
        "mediaType": bundle.PAYLOAD_TYPE,
        "digest": D,
        "size": 200,
        "annotations": {bundle.ANNOTATION: "AAA="},
    }
    others = [{"mediaType": manifest.DOC, "digest": D, "size": 1}, {**good, "annotations": {}}]
    assert len(bundle.pointers(orjson.dumps({"layers": [*others, good]}))) == 1
    for bad in (
        {**good, "digest": "sha256:../x"},
        {**good, "size": bundle.MAX_BYTES + 1},
        {**good, "size": 0},
        {**good, "annotations": {bundle.ANNOTATION: "%"}},
    ):
        with pytest.raises(Refusal, match="SignatureInvalid"):
            bundle.pointers(orjson.dumps({"layers": [bad]}))


def test_the_library_is_loaded_only_where_a_key_is() -> None:
    code = (
        "import sys; import edgeward_runtime.trust.keys, edgeward_runtime.server; print('cryptography' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "edge-runtime")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"
