"""What of a CheckRequest decides. Only what Envoy attests is read, and never a header that names an identity."""

from __future__ import annotations

from dataclasses import dataclass

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from extauthz.policy import CONTEXT_POLICY_KEY, REQUEST_ID_HEADER


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to decide on. Header values are kept as bytes, every occurrence of them, in order."""

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
    authorization: list[bytes] = []
    api_key: list[bytes] = []
    request_id = ""
    for header in http.header_map.headers:
        name = header.key
        if name == "authorization":
            authorization.append(header.raw_value or header.value.encode())
        elif name == api_key_header:
            api_key.append(header.raw_value or header.value.encode())
        elif name == REQUEST_ID_HEADER:
            request_id = (header.raw_value or header.value.encode()).decode("latin-1")
    for name, value in http.headers.items():
        if name == "authorization":
            authorization.append(value.encode())
        elif name == api_key_header:
            api_key.append(value.encode())
        elif name == REQUEST_ID_HEADER:
            request_id = value
    return Request(
        policy=attributes.context_extensions.get(CONTEXT_POLICY_KEY, ""),
        method=http.method,
        path=http.path,
        host=http.host,
        address=attributes.source.address.socket_address.address,
        principal=attributes.source.principal,
        request_id=request_id if len(request_id) <= 128 and request_id.isprintable() and request_id.isascii() else "",
        authorization=tuple(authorization),
        api_key=tuple(api_key),
    )
