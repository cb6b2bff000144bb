"""What is asked for in words: where an artifact goes, what it is called, which nodes a variant is for; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# What a registry takes (OCI distribution-spec) and a ModelRelease's version too.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAX_VERSION = 63
_MAX_TAG = 128
_MATCHES = {"tier": re.compile(r"edge|fog|cloud"), "arch": re.compile(r"[a-z0-9]{1,63}")}


class NameProblem(ValueError):
    """Says what is wrong and what would do."""


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise NameProblem(
            f"--name {name!r} is no part of a repository's name: small letters and digits, with single '.', '_' or '-' "
            "between them, such as sign-reader"
        )
    return name


def check_version(version: str) -> str:
    if "+" in version:
        raise NameProblem(f"--version {version!r} has a '+', which a registry's tag cannot hold; write '-' or '.'")
    if not _VERSION.fullmatch(version) or len(version) > _MAX_VERSION:
        raise NameProblem(
            f"--version {version!r} must begin and end with a letter or digit and hold only letters, digits, '.', '_' and "
            f"'-', at most {_MAX_VERSION}, such as 1.4.0"
        )
    return version


def repository(to: str, name: str) -> str:
    """oci://registry/models and sign-reader -> oci://registry/models/sign-reader"""
    if "://" not in to:
        raise NameProblem(f"--to {to} must be oci://REGISTRY/REPOSITORY; try --to oci://{to.strip('/')}")
    if not to.startswith("oci://"):
        raise NameProblem(f"--to {to} must begin with oci://, such as oci://registry.example.com/models")
    return f"{to.rstrip('/')}/{name}"


def variant(text: str) -> tuple[dict[str, str], Path]:
    """tier=edge,arch=arm64:model.int8.onnx -> ({"arch": "arm64", "tier": "edge"}, model.int8.onnx)"""
    asked, found, file = text.partition(":")
    if not found or not file:
        raise NameProblem(f"--variant {text!r} must be MATCH:FILE, such as tier=edge,arch=arm64:model.int8.onnx")
    match: dict[str, str] = {}
    for part in asked.split(","):
        key, _, value = part.partition("=")
        if key not in _MATCHES or not _MATCHES[key].fullmatch(value) or key in match:
            raise NameProblem(
                f"--variant {text!r}: {part!r} must be tier=edge, tier=fog, tier=cloud or arch=ARCHITECTURE, each once"
            )
        match[key] = value
    return dict(sorted(match.items())), Path(file)


def tag(version: str, match: Mapping[str, str]) -> str:
    """1.4.0, of a variant 1.4.0_arch-arm64_tier-edge: no version in semantic versioning has a "_", so nobody who follows
    the versions of a repository takes a variant for one."""
    made = "_".join([version, *(f"{key}-{value}" for key, value in match.items())])
    if len(made) > _MAX_TAG:
        raise NameProblem(f"the tag {made} is longer than {_MAX_TAG} characters; a shorter --version helps")
    return made
