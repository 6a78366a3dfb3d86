"""What of a CheckRequest decides. Only what Envoy attests is read, and never a header that names an identity."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from extauthz.policy import CONTEXT_POLICY_KEY, REQUEST_ID_HEADER

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class Request(NamedTuple):
    """One request to decide on. Header values are kept as bytes, every occurrence of them, in order.

    A tuple, because one is made for every request and a frozen dataclass takes four times as long.
    """

    policy: str
    method: str
    path: str
    host: str
    address: str
    principal: str = ""
    request_id: str = ""
    authorization: tuple[bytes, ...] = ()
    api_key: tuple[bytes, ...] = ()


def read(message: bytes, api_key_header: str) -> Request:
    """The request in an encoded CheckRequest. Raises google.protobuf.message.DecodeError.

    Headers are read raw where Envoy sends them raw (duplicates stay apart), else from the map, in which Envoy has
    joined duplicates with commas; both forms lead to the same refusals.
    """
    attributes = CheckRequest.FromString(message).attributes
    http = attributes.request.http
    authorization: tuple[bytes, ...] = ()
    api_key: tuple[bytes, ...] = ()
    request_id = b""
    for name, value in _headers(http):
        if name == "authorization":
            authorization += (value,)
        elif name == REQUEST_ID_HEADER:
            request_id = value
        elif name == api_key_header:
            api_key += (value,)
    source = attributes.source
    return Request(
        attributes.context_extensions.get(CONTEXT_POLICY_KEY, ""),
        http.method,
        http.path,
        http.host,
        source.address.socket_address.address,
        source.principal,
        request_id.decode("ascii") if _REQUEST_ID.fullmatch(request_id) else "",
        authorization,
        api_key,
    )


def _headers(http: AttributeContext.HttpRequest) -> list[tuple[str, bytes]]:
    raw = http.header_map.headers
    if raw:
        return [(header.key, header.raw_value or header.value.encode()) for header in raw]
    return [(name, value.encode()) for name, value in http.headers.items()]
