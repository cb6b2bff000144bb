from typing import Any

import orjson
import pytest

from edgeward_runtime.artifact import manifest
from edgeward_runtime.errors import Refusal

A = f"sha256:{'a' * 64}"
B = f"sha256:{'b' * 64}"
CONFIG = {"mediaType": manifest.CONFIG_TYPE, "digest": f"sha256:{'c' * 64}", "size": 20}

IMAGE_CONFIG = {**CONFIG, "mediaType": "application/vnd.oci.image.config.v1+json"}


def layer(path: str | None = "model.onnx", **changes: Any) -> dict[str, Any]:
    annotations = {} if path is None else {manifest.FILEPATH: path}
    return {"mediaType": manifest.WEIGHT, "digest": A, "size": 100, "annotations": annotations, **changes}


def document(*layers: Any, **changes: Any) -> bytes:
    whole = {
        "schemaVersion": 2,
        "mediaType": manifest.MEDIA_TYPE,
        "artifactType": manifest.ARTIFACT_TYPE,
        "config": CONFIG,
        "layers": list(layers) or [layer()],
        "annotations": {"org.opencontainers.image.version": "1.4.0"},
        **changes,
    }
    return orjson.dumps({key: value for key, value in whole.items() if value is not None})


def refused(data: bytes, *, max_bytes: int = 10**6) -> Refusal:
    with pytest.raises(Refusal) as caught:
        manifest.parse(data, max_bytes=max_bytes)
    assert caught.value.step == "Verify"
    assert caught.value.permanent
    return caught.value


def test_files_in_their_order_with_digest_size_and_path() -> None:
    parsed = manifest.parse(
        document(layer(), layer("weights/part.bin", digest=B, size=7), layer("twin.bin")), max_bytes=107
    )
    assert [(one.path, one.digest, one.size) for one in parsed.layers] == [
        ("model.onnx", A, 100),
        ("weights/part.bin", B, 7),
        ("twin.bin", A, 100),
    ]
    assert parsed.config.digest == CONFIG["digest"]
    assert parsed.size == 107  # a file that is there twice is fetched once
    assert parsed.annotations["org.opencontainers.image.version"] == "1.4.0"


def test_documentation_and_code_are_not_fetched_in_whatever_form() -> None:
    parsed = manifest.parse(
        document(
            layer(),
            layer("README.md", mediaType=manifest.DOC),
            layer(None, mediaType="application/vnd.cncf.model.code.v1.tar+gzip"),
        ),
        max_bytes=1000,
    )
    assert [one.path for one in parsed.layers] == ["model.onnx"]


def test_the_config_type_says_it_too_where_there_is_no_artifact_type() -> None:
    assert manifest.parse(document(artifactType=None), max_bytes=1000).layers


def test_what_oras_pushes_is_taken() -> None:
    empty = {**CONFIG, "mediaType": manifest.EMPTY_TYPE}
    titled = layer(annotations={manifest.TITLE: "model.onnx"})
    assert manifest.parse(document(titled, config=empty), max_bytes=1000).layers[0].path == "model.onnx"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../model.onnx",
        "a/../../model.onnx",
        "a/./b",
        "a//b",
        "a/",
        "",
        ".",
        "..",
        "a\\b",
        "c:model",
        "a\x00b",
        "a\nb",
        "modèle.onnx",
        "x" * 129,
        "/".join("abcdefghi"),
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(path: str) -> None:
    assert refused(document(layer(path))).reason == "UnsafePath"


@pytest.mark.parametrize("second", ["model.onnx", "MODEL.onnx", "model.onnx/weights", "MODEL.ONNX/weights"])
def test_a_path_that_hides_another_file_is_refused(second: str) -> None:
    assert refused(document(layer(), layer(second, digest=B))).reason == "UnsafePath"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "not a JSON object"),
        (
            document(mediaType="application/vnd.oci.image.index.v1+json", manifests=[]),
            "digest of the model's own manifest",
        ),
        (document(mediaType="application/vnd.docker.distribution.manifest.v2+json"), "docker"),
        (document(schemaVersion=1), "schemaVersion"),
        (document(artifactType=None, config=IMAGE_CONFIG), "oci.image.config"),
        (document(artifactType="application/vnd.cnai.model.manifest.v1+json"), "cnai"),
        (document(config=None), "config must be an object"),
        (document(layers=[]), "layers"),
        (document(layers={}), "layers"),
        (document("text"), "layers[0] must be an object"),
        (document(layer(digest="sha512:" + "a" * 128)), "layers[0].digest"),
        (document(layer(digest="sha256:" + "A" * 64)), "layers[0].digest"),
        (document(layer(digest="sha256:../../" + "a" * 58)), "layers[0].digest"),
        (document(layer(size=-1)), "layers[0].size"),
        (document(layer(size=True)), "layers[0].size"),
        (document(layer(size=1.5)), "layers[0].size"),
        (document(layer(mediaType=None)), "layers[0].mediaType"),
        (document(layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")), "no file of a model"),
        (document(layer(mediaType="application/vnd.cncf.model.weight.v1.tar")), "publish each file as a raw layer"),
        (document(layer(None)), manifest.FILEPATH),
        (document(layer(annotations=[1])), manifest.FILEPATH),
        (document(layer(), layer("other", size=99)), "two sizes"),
        (document(layer("README", mediaType=manifest.DOC)), "no model"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_with_the_field_named(data: bytes, says: str) -> None:
    refusal = refused(data)
    assert refusal.reason == "UnsupportedArtifact"
    assert says in refusal.message


def test_bounds() -> None:
    assert refused(document(), max_bytes=99).reason == "TooLarge"
    many = [layer(f"f{number}") for number in range(manifest.MAX_LAYERS + 1)]
    assert refused(document(*many)).reason == "TooLarge"
    assert refused(b" " * (manifest.MAX_MANIFEST_BYTES + 1)).reason == "TooLarge"


def test_a_chunk_index_is_no_file_of_the_model() -> None:
    index = layer("chunks.bin", mediaType=manifest.CHUNKS, digest=B, size=50)
    parsed = manifest.parse(document(layer(), index), max_bytes=100)
    assert [one.path for one in parsed.layers] == ["model.onnx"] and parsed.size == 100
    assert parsed.chunks == manifest.Layer(digest=B, size=50, media_type=manifest.CHUNKS, path="")
    assert manifest.parse(document(layer()), max_bytes=100).chunks is None
    assert "no model" in refused(document(index)).message


def test_a_chunk_index_that_nobody_would_use_is_left_out() -> None:
    """It only saves bytes: without it the model is as good."""
    index = layer(None, mediaType=manifest.CHUNKS, digest=B, size=50)
    large = {**index, "size": manifest.MAX_CHUNKS_BYTES + 1}
    for layers in ([layer(), large], [layer(), index, index]):
        assert manifest.parse(document(*layers), max_bytes=100).chunks is None
    assert "layers[1].digest" in refused(document(layer(), {**index, "digest": "sha256:no"})).message
