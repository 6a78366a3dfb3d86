"""Protocol messages that the installed protocol packages have not got, or not in full.

`RateLimitConfig` is what the reference service receives over ADS. `Request` is
envoy.service.ratelimit.v3.RateLimitRequest with `is_negative_hits`, which is newer than the package: same field
numbers, so the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "bool": _Field.TYPE_BOOL,
}


def _file(name: str, package: str, messages: dict[str, str], enums: dict[str, str] | None = None) -> None:
    """Adds a file to the default pool. A field is written `number name type`, with `*` after a repeated type."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    file.dependency.extend([wrappers_pb2.DESCRIPTOR.name, struct_pb2.DESCRIPTOR.name])
    for enum_name, values in (enums or {}).items():
        enum = file.enum_type.add(name=enum_name)
        for pair in values.split(","):
            value, number = pair.split()
            enum.value.add(name=value, number=int(number))
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for each in fields.split(","):
            number, field_name, type_name = each.split()
            is_repeated = type_name.endswith("*")
            type_name = type_name.removesuffix("*")
            field = message.field.add(
                name=field_name,
                number=int(number),
                label=_Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL,
            )
            if type_name in _TYPES:
                field.type = _TYPES[type_name]
            elif type_name in (enums or {}):
                field.type, field.type_name = _Field.TYPE_ENUM, f".{package}.{type_name}"
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{type_name}" if "." in type_name else f".{package}.{type_name}"
    descriptor_pool.Default().Add(file)


_CONFIG = "ratelimit.config.ratelimit.v3"
_WIRE = "causeway.ratelimit.wire"

_file(
    "ratelimit/config/ratelimit/v3/rls_conf.proto",
    _CONFIG,
    {
        "RateLimitConfig": "1 name string, 2 domain string, 3 descriptors RateLimitDescriptor*",
        "RateLimitDescriptor": "1 key string, 2 value string, 3 rate_limit RateLimitPolicy, "
        "4 descriptors RateLimitDescriptor*, 5 shadow_mode bool, 6 detailed_metric bool, 7 quota_mode bool, "
        "8 metadata google.protobuf.Struct",
        "RateLimitPolicy": "1 unit RateLimitUnit, 2 requests_per_unit uint32, 3 unlimited bool, 4 name string, "
        "5 replaces RateLimitReplace*",
        "RateLimitReplace": "1 name string",
    },
    {"RateLimitUnit": "UNKNOWN 0, SECOND 1, MINUTE 2, HOUR 3, DAY 4, MONTH 5, YEAR 6, WEEK 7"},
)
_file(
    "causeway/ratelimit/wire.proto",
    _WIRE,
    {
        "Request": "1 domain string, 2 descriptors Descriptor*, 3 hits_addend uint32",
        "Descriptor": "1 entries Entry*, 2 limit Override, 3 hits_addend google.protobuf.UInt64Value, "
        "4 is_negative_hits bool",
        "Entry": "1 key string, 2 value string",
        "Override": "1 requests_per_unit uint32, 2 unit uint32",
    },
)


class Wire(Protocol):
    """A message class whose messages are of one type."""

    def __call__(self) -> RequestMessage: ...
    def FromString(self, body: bytes) -> RequestMessage: ...  # noqa: N802 (protobuf's name)


class EntryMessage(Protocol):
    key: str
    value: str


class OverrideMessage(Protocol):
    requests_per_unit: int
    unit: int


class Wrapped(Protocol):
    value: int


class DescriptorMessage(Protocol):
    entries: Sequence[EntryMessage]
    limit: OverrideMessage
    hits_addend: Wrapped
    is_negative_hits: bool

    def HasField(self, name: str) -> bool: ...  # noqa: N802 (protobuf's name)


class RequestMessage(Protocol):
    """A RateLimitRequest."""

    domain: str
    descriptors: Sequence[DescriptorMessage]
    hits_addend: int


Request: Wire = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"{_WIRE}.Request"))
RateLimitConfig = message_factory.GetMessageClass(
    descriptor_pool.Default().FindMessageTypeByName(f"{_CONFIG}.RateLimitConfig")
)
