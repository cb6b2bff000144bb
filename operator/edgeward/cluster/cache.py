"""A cache of our own: seeded by one LIST a kind, kept by events, compared with a LIST from time to time.

An event carries no meaning beyond "this object looks like this now". Whoever needs to act reads the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .resources import Object, Resource, key_of

Trim = Callable[[Object], Object]


def drop_managed_fields(obj: Object) -> Object:
    """Managed fields are most of an object's bytes and nobody here reads them."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": meta}


@dataclass(slots=True)
class Store:
    """Objects of one kind by key.

    `confirmed` holds the keys that the watch itself has delivered. An object that only our own LIST has seen may have
    been deleted before the watch began, in which case no event will ever tell.
    """

    resource: Resource
    trim: Trim = drop_managed_fields
    wanted: Callable[[Object], bool] = lambda _: True
    """objects for which this is false are not kept"""
    selector: str = ""
    """label selector that a LIST may use instead of fetching what is not wanted"""
    changed: Callable[[Resource, Object], None] = lambda _resource, _obj: None
    """told of every change, whether it came by the watch or as the answer to a write of our own"""
    objects: dict[str, Object] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    gone: dict[str, int] = field(default_factory=dict)
    """resource versions at which objects were deleted, so that an older answer does not bring them back"""
    seeded: bool = False
    changes: int = 0
    """goes up with every change, so that what was made of all objects can be kept until then"""
    _groups: dict[str, dict[str, dict[str, Object]]] = field(default_factory=dict)
    """by label and its value, the objects by key; of the labels that somebody has asked for"""

    def all(self) -> list[Object]:
        return list(self.objects.values())

    def get(self, key: str) -> Object | None:
        return self.objects.get(key)

    def labelled(self, label: str, value: str) -> list[Object]:
        """The objects with this value of a label, without a look at all the others."""
        return list(self._grouped(label).get(value, {}).values())

    def values(self, label: str) -> set[str]:
        """All values that a label has."""
        return set(self._grouped(label))

    def seed(self, items: Iterable[Object]) -> None:
        for item in items:
            self.put(item)
        self.seeded = True

    def put(self, obj: Object) -> bool:
        """Take over an object unless a newer one is known. True when something changed.

        Only the version counts, whatever the uid: a late word about an object must not replace its successor.
        """
        key, version = key_of(obj), version_of(obj)
        known = self.objects.get(key)
        if known is not None and version_of(known) >= version:
            return False
        if version <= self.gone.get(key, -1):
            return False
        if not self.wanted(obj):
            # Somebody took the mark off by which it was wanted; to us it is as good as deleted.
            return self._drop(key, obj)
        # In its old place: an order that changed with every event would be one that plans are made in.
        known, kept = self.objects.get(key), self.trim(obj)
        self.objects[key] = kept
        self.changes += 1
        for label, groups in self._groups.items():
            if known is not None and _value(known, label) != _value(kept, label):
                _leave(groups, label, key, known)
            _enter(groups, label, key, kept)
        self.gone.pop(key, None)
        self.changed(self.resource, obj)
        return True

    def event(self, kind: str | None, obj: Object) -> bool:
        """Take over one watch event. True when something changed."""
        key = key_of(obj)
        if kind != "DELETED":
            if self.wanted(obj):
                self.confirmed.add(key)
            return self.put(obj)
        known = self.objects.get(key)
        if known is not None and version_of(known) > version_of(obj):
            return False
        self.gone[key] = max(version_of(obj), self.gone.get(key, -1))
        if len(self.gone) > 10_000:
            del self.gone[next(iter(self.gone))]
        return self._drop(key, obj)

    def _drop(self, key: str, obj: Object) -> bool:
        self.confirmed.discard(key)
        if not self._forget(key):
            return False
        self.changed(self.resource, obj)
        return True

    def differs(self, listed: Iterable[Object], *, at: str = "") -> set[str]:
        """Keys in which a LIST and this cache differ: newer, unknown or older there, or gone there and confirmed here.

        Older for good means that the cluster was set back (etcd restored); older for a moment that the object changed
        after the LIST, which the next one shows. Lag tells the two apart.

        at: the LIST's own resource version; what is newer here than the LIST says nothing by missing from it. What the
        watch never delivered and the LIST no longer holds is dropped here at once; see `confirmed`.
        """
        behind: set[str] = set()
        seen: set[str] = set()
        limit = int(at) if at.isdigit() else None
        for item in listed:
            if not self.wanted(item):
                continue
            key = key_of(item)
            seen.add(key)
            known = self.objects.get(key)
            ahead = known is not None and version_of(known) > version_of(item)
            unseen = known is None or version_of(known) < version_of(item)
            if ahead or (unseen and version_of(item) > self.gone.get(key, -1)):
                behind.add(key)
        for key in [key for key in self.objects if key not in seen]:
            if limit is not None and version_of(self.objects[key]) > limit:
                continue
            if key in self.confirmed:
                behind.add(key)
            else:
                self._forget(key)
        return behind

    def _grouped(self, label: str) -> dict[str, dict[str, Object]]:
        if label not in self._groups:
            groups = self._groups[label] = {}
            for key, obj in self.objects.items():
                _enter(groups, label, key, obj)
        return self._groups[label]

    def _forget(self, key: str) -> bool:
        """True when it was there."""
        known = self.objects.pop(key, None)
        if known is None:
            return False
        self.changes += 1
        for label, groups in self._groups.items():
            _leave(groups, label, key, known)
        return True


def _enter(groups: dict[str, dict[str, Object]], label: str, key: str, obj: Object) -> None:
    value = _value(obj, label)
    if value:
        groups.setdefault(value, {})[key] = obj


def _leave(groups: dict[str, dict[str, Object]], label: str, key: str, obj: Object) -> None:
    value = _value(obj, label)
    group = groups.get(value, {})
    group.pop(key, None)
    if not group:
        groups.pop(value, None)


def _value(obj: Object, label: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(label) or "")


@dataclass(slots=True)
class Cache:
    changed: Callable[[Resource, Object], None] = lambda _resource, _obj: None
    stores: dict[str, Store] = field(default_factory=dict)

    def add(
        self,
        resource: Resource,
        *,
        trim: Trim = drop_managed_fields,
        wanted: Callable[[Object], bool] = lambda _: True,
        selector: str = "",
    ) -> Store:
        store = Store(resource=resource, trim=trim, wanted=wanted, selector=selector, changed=self.changed)
        return self.stores.setdefault(resource.plural, store)

    def __getitem__(self, resource: Resource) -> Store:
        return self.stores[resource.plural]

    @property
    def ready(self) -> bool:
        return bool(self.stores) and all(store.seeded for store in self.stores.values())


@dataclass(slots=True)
class Lag:
    """For how long the cache has been behind what a LIST shows; the measure of a watch that has silently died."""

    limit: float = 60.0
    """seconds of difference after which the watch counts as dead"""
    since: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, plural: str, behind: set[str], *, now: float) -> None:
        for known in [key for key in self.since if key[0] == plural and key[1] not in behind]:
            del self.since[known]
        for key in behind:
            self.since.setdefault((plural, key), now)

    def worst(self, *, now: float) -> float:
        return max((now - since for since in self.since.values()), default=0.0)

    def dead(self, *, now: float) -> bool:
        return self.worst(now=now) > self.limit


def version_of(obj: Object) -> int:
    """Resource versions of one kind are comparable numbers (KEP-5504); what is not a number counts as oldest."""
    version = str(obj["metadata"].get("resourceVersion", ""))
    return int(version) if version.isdigit() else 0
