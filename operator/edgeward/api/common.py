"""What every kind shares: the base model, metadata, conditions, field types with their schema, and the reader.

Attributes are snake_case in Python and camelCase on the wire. Models are frozen: a snapshot that a decision was made
from must not change under it. Unknown fields are dropped when an object comes from the cluster (the apiserver prunes
them, and a newer CRD may hold fields this version does not know); `parse(..., strict=True)` reports them instead.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from edgeward.api.quantity import (
    BANDWIDTH_PATTERN,
    DECIMAL_PATTERN,
    DURATION_PATTERN,
    PERCENT_PATTERN,
    QUANTITY_PATTERN,
    QuantityError,
    format_bytes,
    format_cpu,
    format_decimal,
    format_duration,
    parse_bandwidth,
    parse_bytes,
    parse_cpu,
    parse_decimal,
    parse_duration,
    parse_percent,
    parse_quantity,
    seconds,
)

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "ApiError",
    "Bandwidth",
    "Column",
    "Condition",
    "Decimal",
    "Digest",
    "DnsLabel",
    "Duration",
    "KindInfo",
    "KubeObject",
    "LabelSelector",
    "Model",
    "NonNegative",
    "ObjectMeta",
    "OptionalDuration",
    "Percent",
    "Quantity",
    "QuantityError",
    "Requirement",
    "ResourceMap",
    "SiteName",
    "Tier",
    "Time",
    "cel",
    "format_bytes",
    "format_cpu",
    "format_decimal",
    "format_duration",
    "format_time",
    "keyed",
    "parse",
    "parse_bandwidth",
    "parse_bytes",
    "parse_cpu",
    "parse_decimal",
    "parse_duration",
    "parse_percent",
    "parse_quantity",
    "parse_time",
    "rules",
    "seconds",
    "to_dict",
]

GROUP = "edgeward.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class ApiError(ValueError):
    """An object that cannot be read. `problems` holds (field path, what is wrong) pairs, in field order."""

    def __init__(self, *, subject: str, problems: tuple[tuple[str, str], ...]) -> None:
        self.subject = subject
        self.problems = problems
        super().__init__(f"{subject}: " + "; ".join(f"{path}: {text}" for path, text in problems))


class Model(BaseModel):
    """Base of every API model."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", use_attribute_docstrings=False
    )

    @model_validator(mode="before")
    @classmethod
    def _as_kubernetes_reads(cls, data: Any) -> Any:
        """Kubernetes treats null as not set; without this a default would lose against an explicit null. Lists become
        tuples here, because pydantic's strictness would not take one for the other."""
        if not isinstance(data, Mapping):
            return data
        return {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if value is not None
        }


def to_dict(model: Model) -> dict[str, Any]:
    """The wire form: camelCase, nothing that is None."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def rules(*entries: dict[str, str]) -> dict[str, Any]:
    """CEL rules of a model, for `json_schema_extra`; they sit beside the fields that they protect."""
    return {"x-kubernetes-validations": list(entries)}


def cel(rule: str, message: str, field: str = "") -> dict[str, str]:
    """One CEL rule. The message names the field and the remedy; `field` is the path below the model, such as `.max`."""
    entry = {"rule": rule, "message": message}
    if field:
        entry["fieldPath"] = field
    return entry


def keyed(*keys: str) -> dict[str, Any]:
    """Schema marks of a list that merges by key under server-side apply (and refuses duplicate keys)."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def _as_text(value: Any) -> Any:
    """Integers are accepted where a quantity stands (`cpu: 2`), and kept as text so that there is one form inside."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _decimal_text(value: Any) -> Any:
    return format_decimal(value) if isinstance(value, float) else _as_text(value)


def _int_or_string(pattern: str, max_length: int = 32) -> dict[str, Any]:
    return {"x-kubernetes-int-or-string": True, "pattern": pattern, "maxLength": max_length, "minimum": 0}


Quantity = Annotated[
    str,
    Field(pattern=QUANTITY_PATTERN, max_length=32),
    BeforeValidator(_as_text),
    WithJsonSchema(_int_or_string(QUANTITY_PATTERN)),
]
Bandwidth = Annotated[
    str,
    Field(pattern=BANDWIDTH_PATTERN, max_length=32),
    BeforeValidator(_as_text),
    WithJsonSchema(_int_or_string(BANDWIDTH_PATTERN)),
]
Decimal = Annotated[
    str,
    Field(pattern=DECIMAL_PATTERN, max_length=20),
    BeforeValidator(_decimal_text),
    WithJsonSchema(_int_or_string(DECIMAL_PATTERN, 20)),
]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, min_length=2, max_length=32)]
OptionalDuration = Duration | None
Percent = Annotated[str, Field(pattern=PERCENT_PATTERN, max_length=4)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=40)]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
SiteName = Annotated[str, Field(min_length=1, max_length=63)]
Tier = Literal["edge", "fog", "cloud"]
NonNegative = Annotated[int, Field(ge=0)]
LabelText = Annotated[str, Field(max_length=317)]
ResourceMap = Annotated[dict[str, Quantity], Field(max_length=16)]


def parse_time(text: str) -> float:
    """RFC 3339 -> seconds since the epoch, the only form of time inside decisions."""
    stamp = datetime.fromisoformat(text)
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()


def format_time(value: float) -> str:
    """Seconds since the epoch -> RFC 3339 in UTC, whole seconds as Kubernetes writes them."""
    return datetime.fromtimestamp(int(value), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ManagedFields(Model):
    """Who wrote a part of an object."""

    manager: str = Field("", description="Name of the writer.")
    subresource: str = Field("", description="What it was written through; empty for the object itself.")


class ObjectMeta(Model):
    """The part of metadata that Edgeward reads."""

    name: str = Field("", description="Name of the object.")
    namespace: str = Field("", description="Namespace; empty for cluster-scoped kinds.")
    uid: str = Field("", description="Identity that a later object of the same name does not share.")
    resource_version: str = Field("", description="Opaque version for optimistic concurrency.")
    generation: int = Field(0, description="Counts up with every change of the spec.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations.")
    finalizers: tuple[str, ...] = Field((), description="What must let go before the object is removed.")
    creation_timestamp: Time | None = Field(None, description="When the object was created.")
    deletion_timestamp: Time | None = Field(None, description="When deletion was asked for; absent while it lives.")
    managed_fields: tuple[ManagedFields, ...] = Field((), description="Who wrote what.")


class Condition(Model):
    """One condition, with the meaning of metav1.Condition."""

    type: str = Field(description="What the condition is about.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this is about.")
    last_transition_time: Time = Field(description="When status last changed.")
    reason: str = Field(description="Why, as one CamelCase word.", min_length=1, max_length=1024)
    message: str = Field("", description="Why, for a person.", max_length=32768)


class Requirement(Model):
    """One expression of a label selector."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) ||"
                " size(self.values) == 0",
                "values does not fit operator: give values with In and NotIn, and none with Exists and DoesNotExist",
                ".values",
            )
        )
    )

    key: LabelText = Field(description="Label key.", min_length=1)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How key and values relate.")
    values: tuple[Annotated[str, Field(max_length=63)], ...] = Field(
        (), max_length=64, description="Values for In and NotIn."
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """The Kubernetes meaning: NotIn and DoesNotExist also hold for an absent label."""
        value = labels.get(self.key)
        if self.operator in ("Exists", "DoesNotExist"):
            return (value is not None) == (self.operator == "Exists")
        return (value in self.values) == (self.operator == "In")


class LabelSelector(Model):
    """A Kubernetes label selector; an empty one matches everything."""

    match_labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=32, description="Labels that must have exactly these values."
    )
    match_expressions: tuple[Requirement, ...] = Field(
        (),
        max_length=32,
        description="Expressions that must all hold.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )


@dataclass(frozen=True, kw_only=True)
class Column:
    """A printer column. `priority` 1 shows with -o wide only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class KindInfo:
    """What a client or the CRD generator must know about a kind beyond its schema."""

    kind: str
    plural: str
    singular: str
    namespaced: bool
    description: str
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    rules: tuple[dict[str, str], ...] = ()
    status: bool = True
    scale: bool = False

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


class KubeObject(Model):
    """What every kind has on top of its spec and status."""

    info: ClassVar[KindInfo]

    api_version: str = Field(API_VERSION, description="Version of the schema.")
    kind: str = Field("", description="Kind of the object.")
    metadata: ObjectMeta = Field(default_factory=ObjectMeta, description="Standard metadata.")

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def generation(self) -> int:
        return self.metadata.generation

    @property
    def deleting(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def created(self) -> float:
        """Seconds since the epoch; 0 for an object that never was in a cluster."""
        stamp = self.metadata.creation_timestamp
        return parse_time(stamp) if stamp else 0.0


M = TypeVar("M", bound=Model)


def _yaml_time(value: object) -> str:
    """YAML readers make a datetime of an unquoted time; on the wire it is text."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be part of an object")


def _path(parts: Iterable[int | str]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(object)"


def parse(model: type[M], raw: Mapping[str, Any], *, strict: bool = False) -> M:
    """Read a wire object. Raises ApiError with the camelCase path of every field that is wrong.

    strict=True also refuses unknown fields, at any depth, and types that only look right (`replicas: "3"`), as the
    apiserver does: for files a person is about to apply.
    """
    try:
        if strict:
            # By way of JSON, because only there pydantic's strictness makes a model of an object.
            return model.model_validate_json(json.dumps(raw, default=_yaml_time), strict=True, extra="forbid")
        return model.model_validate(dict(raw))
    except ValidationError as error:
        metadata = raw.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
        problems = tuple(
            (_path(item["loc"]), "unknown field" if item["type"] == "extra_forbidden" else str(item["msg"]))
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise ApiError(subject=f"{model.__name__} {name}".strip(), problems=problems) from None
