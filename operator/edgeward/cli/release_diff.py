"""`edgeward release diff`: what differs between the version that is wanted, the one that finished last, and the sites. Pure.

Which nodes a site has is not asked for, so any artifact of the wanted version counts as the wanted one at a site.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeward.api.modelrelease import Signature, Variant
from edgeward.fleet.model import ModelVersion, Release, ServedModel, SiteModels
from edgeward.fleet.pins import finished
from edgeward.rollout.variants import described, digests

from .table import Page

_LISTED = 20
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that differs."""

    what: str
    wanted: str
    finished: str


@dataclass(frozen=True, slots=True)
class AtSite:
    """A job at a site that is not as wanted."""

    site: str
    job: str
    serves: str
    """version and, where it is one, variant; "-" when nothing serves"""
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diff:
    release: str
    wanted: str
    """version; "" when none is known"""
    finished: str
    """version; "" when none has finished"""
    lines: tuple[Line, ...]
    sites: tuple[AtSite, ...]
    total: int
    """sites that were told a version of this model"""
    remarks: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return asdict(self)


def diff_of(release: Release) -> Diff:
    target = release.target
    last = finished(release, release.history[0]) if release.history else None
    sites = [one for models in release.sites if (one := _at_site(models, release)) is not None]
    return Diff(
        release=release.key,
        wanted=target.version if target else "",
        finished=last.version if last else "",
        lines=tuple(_lines(target, last)),
        sites=tuple(sorted(sites, key=lambda one: (one.site, one.job))),
        total=len({models.site for models in release.sites}),
        remarks=tuple(_remarks(release)),
    )


def _lines(wanted: ModelVersion | None, last: ModelVersion | None) -> Iterable[Line]:
    if wanted is None or last is None:
        return
    rows = [
        ("version", wanted.version, last.version),
        ("digest", wanted.digest, last.digest),
        ("signature", _signature(wanted.signature), _signature(last.signature)),
    ]
    rows += [(f"parameter {key}", *pair) for key, pair in _parameters(wanted.parameters, last.parameters).items()]
    now, before = _variants(wanted.variants), _variants(last.variants)
    rows += [(f"variant {key}", now.get(key, _NONE), before.get(key, _NONE)) for key in dict.fromkeys([*now, *before])]
    if list(now) != list(before) and sorted(now) == sorted(before):
        rows.append(("order of variants", "; ".join(now), "; ".join(before)))
    yield from (Line(what, one, other) for what, one, other in rows if one != other)


def _at_site(models: SiteModels, release: Release) -> AtSite | None:
    """None where it serves what is wanted and was told so."""
    target = release.target
    serving = [one for one in models.served if one.serving]
    serves = ", ".join(_served(one, release) for one in serving) or _NONE
    differs: list[str] = []
    if target is not None:
        wanted = digests(target)
        others = [one.digest for one in serving if one.digest not in wanted]
        differs += [f"digest {_short(other)} instead of {_short(target.digest)}" for other in others]
        if not serving:
            differs.append("nothing serves")
        told = models.beside or models.told
        if told is not None:
            if told.version != target.version and not others:
                differs.append(f"told as version {told.version}")
            for key, (new, old) in _parameters(target.parameters, told.parameters).items():
                differs.append(f"parameter {key} {old} instead of {new}")
            asked = replace(target, signature=_signature_of(target, told.digest))
            if told.digest in wanted and _signature(told.signature) != _signature(asked.signature):
                differs.append(f"signature {_signature(told.signature)} instead of {_signature(asked.signature)}")
        refused = next((one for one in models.served if one.digest in wanted and one.refused_step), None)
        if refused is not None and refused.refused_step:
            differs.append(f"refused: {refused.refused_step}: {refused.refused_message or refused.refused_reason}")
        if models.beside is not None and models.told is not None and models.beside.digest in wanted:
            differs.append(f"as a canary beside {models.told.version}")
    if not differs:
        return None
    return AtSite(site=models.site, job=models.job.partition("/")[2], serves=serves, differs=tuple(differs))


def _remarks(release: Release) -> Iterable[str]:
    target = release.target
    if target is None:
        yield f"no version is wanted: {release.following or (release.problem.message if release.problem else 'none is named')}"
    elif not release.history:
        yield f"no version has finished yet; {target.version} is the first"
    refused = next((one for one in release.refused if target is not None and one.identity == target.identity), None)
    if refused is not None:
        yield f"{refused.version or target.version if target else ''} is refused until retry: {refused.reason}"


def _served(one: ServedModel, release: Release) -> str:
    variant = described(release.target, one.digest) if release.target else ""
    name = one.version or _short(one.digest)
    return f"{name} ({variant})" if variant else name


def _signature_of(target: ModelVersion, digest: str) -> Signature | None:
    for one in target.variants:
        if one.artifact.digest == digest and digest != target.digest:
            return one.artifact.signature or target.signature
    return target.signature


def _signature(signature: Signature | None) -> str:
    if signature is None or signature.policy == "Off":
        return "Off"
    count = len(signature.keys)
    return f"{signature.policy}, {count} {'key' if count == 1 else 'keys'}: {', '.join(map(_key, signature.keys))}"


def _key(pem: str) -> str:
    """The end of a public key, which tells it from others."""
    body = [line for line in pem.strip().splitlines() if not line.startswith("-----")]
    return f"...{''.join(body)[-8:]}"


def _parameters(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Those that differ."""
    found: dict[str, tuple[str, str]] = {}
    for key in sorted({*one, *other}):
        if key not in one or key not in other or one[key] != other[key]:
            found[key] = (_value(one, key), _value(other, key))
    return found


def _value(of: Mapping[str, object], key: str) -> str:
    if key not in of:
        return _NONE
    text = json.dumps(of[key], sort_keys=True, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _variants(variants: Iterable[Variant]) -> dict[str, str]:
    """Digest by match, in order."""
    found: dict[str, str] = {}
    for one in variants:
        match = one.match.model_dump(mode="json", by_alias=True, exclude_none=True)
        found[",".join(f"{key}={value}" for key, value in match.items()) or "any"] = one.artifact.digest
    return found


def _short(digest: str) -> str:
    return digest[:19] if digest else _NONE


def lines_of(diff: Diff, page: Page) -> list[str]:
    between = f"{diff.wanted or '?'} against {diff.finished}" if diff.finished else diff.wanted or "?"
    lines = [page.title(f"{diff.release}  {between}")]
    for remark in diff.remarks:
        lines += page.wrap(remark, indent="  ", hang="  ")
    if diff.lines:
        rows = [[one.what, _cut(one.wanted), _cut(one.finished)] for one in diff.lines]
        lines += page.table(["", "WANTED", "FINISHED LAST"], rows)
    elif diff.wanted and diff.finished:
        lines.append("  what is wanted has finished: nothing differs")
    if not diff.total:
        return [*lines, "", "  no site that you may see has been told a version yet"]
    as_wanted = diff.total - len({one.site for one in diff.sites})
    lines += ["", page.title(f"sites  {as_wanted} of {diff.total} as wanted")]
    rows = [[one.site, one.job, one.serves, "; ".join(one.differs)] for one in diff.sites[:_LISTED]]
    lines += page.table(["SITE", "JOB", "SERVES", "DIFFERS"], rows)
    more = len(diff.sites) - _LISTED
    if more > 0:
        lines.append(f"  and {more} more: -o yaml")
    return lines


def _cut(text: str) -> str:
    return _short(text) if text.startswith("sha256:") else text
