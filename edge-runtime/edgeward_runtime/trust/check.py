"""Whether the policy lets a model be loaded: looks into the store first, then at the sources.

A signature that was found good is kept in the store beside the model, so that a boot without network verifies it again,
with the keys of then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust import bundle, keys
from edgeward_runtime.trust.bundle import Signed
from edgeward_runtime.trust.policy import OFF, REQUIRE

log = logging.getLogger(__name__)

# Which of several reasons is the one to show: a wrong signature says more than a source that is away or has none.
_WEIGHT = ("BadKey", "SignatureInvalid", "SignatureUnreachable", "SignatureMissing")


class Fetched(Protocol):
    def __call__(self, entry: Entry, *, cancelled: Callable[[], bool]) -> Iterable[tuple[Signed, ...] | Refusal]: ...


class Signatures:
    """saved, save: the store's signature file of a digest; save may fail quietly, the next boot asks the sources then.
    fetched: what each source has, see fetch.signature; asked with `cancelled`."""

    def __init__(
        self,
        *,
        saved: Callable[[str], bytes | None],
        save: Callable[[str, bytes], None],
        fetched: Fetched,
    ) -> None:
        self._saved = saved
        self._save = save
        self._fetched = fetched

    def check(self, entry: Entry, *, offline: bool = False, cancelled: Callable[[], bool] = bool) -> Refusal | None:
        """None if all is as asked for. Under Require raises Refusal (step Signature) if not; under Warn answers it, for the
        status. `offline`: only what the store has counts. Raises Cancelled."""
        if entry.signature.mode == OFF:
            return None
        refusal = self._refusal(entry, offline=offline, cancelled=cancelled)
        if refusal is not None and entry.signature.mode == REQUIRE:
            raise refusal
        return refusal

    def _refusal(self, entry: Entry, *, offline: bool, cancelled: Callable[[], bool]) -> Refusal | None:
        failures: list[Refusal] = []
        text = self._saved(entry.digest)
        if text is not None:
            failure = self._verified(entry, lambda: bundle.loads(text))
            if failure is None:
                return None
            failures.append(failure)
        for found in self._fetched(entry, cancelled=cancelled) if not offline else ():
            if isinstance(found, Refusal):
                failures.append(_of_source(found))
                continue
            failure = self._verified(entry, lambda signed=found: signed)  # type: ignore[misc]
            if failure is None:
                self._save(entry.digest, bundle.dumps(found))
                log.info("signature verified", extra={"model": entry.name, "digest": entry.digest})
                return None
            failures.append(failure)
        if not failures:
            return _verify("SignatureMissing", f"nobody signed {entry.digest}, as far as the store knows")
        return min(failures, key=lambda one: _WEIGHT.index(one.reason))

    @staticmethod
    def _verified(entry: Entry, read: Callable[[], tuple[Signed, ...]]) -> Refusal | None:
        try:
            keys.verify(entry.digest, read(), entry.signature.keys)
        except Refusal as refusal:
            return refusal
        return None


def _of_source(refusal: Refusal) -> Refusal:
    """What a source's failure means for the signature. A source that has the model but no signature is not broken."""
    if refusal.reason in _WEIGHT:
        return refusal
    reason = "SignatureMissing" if refusal.reason == "NotFound" else "SignatureUnreachable"
    return _verify(reason, f"no signature: {refusal.message}")


def _verify(reason: str, message: str) -> Refusal:
    return Refusal(step="Signature", reason=reason, message=message, permanent=False)
