"""CheckResponses as bytes.

An empty CheckResponse means "allow", and so does a denial whose status was forgotten. So every denial is made by
`denied`, which sets both, and nothing else here leaves the status at OK but `allowed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.struct_pb2 import Struct, Value
from google.rpc.status_pb2 import Status

from extauthz.core.reasons import Refusal

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND: Final = HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_GRPC_CODES: Final = {400: 3, 401: 16, 403: 7, 503: 14}
_ERRORS: Final = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 503: "Service Unavailable"}


def allowed(
    headers: Iterable[tuple[str, str]],
    remove: Iterable[str],
    metadata: Mapping[str, str],
    *,
    remove_parameters: Iterable[str] = (),
) -> bytes:
    """Let the request through with these headers, each exactly once, and without those in `remove` nor the query's
    `remove_parameters`."""
    response = CheckResponse(
        status=Status(code=0),
        ok_response=OkHttpResponse(
            headers=[_header(name, value, _OVERWRITE) for name, value in headers],
            headers_to_remove=remove,
            query_parameters_to_remove=remove_parameters,
        ),
        dynamic_metadata=_struct(metadata),
    )
    return _bytes(response)


def denied(refusal: Refusal, metadata: Mapping[str, str], *, request_id: str, challenges: Iterable[str] = ()) -> bytes:
    """Refuse the request. A status of 503 is an error of ours: Envoy counts it so, and does what the route declares for
    an authorization service that does not answer."""
    body = {
        "error": _ERRORS[refusal.status],
        "message": refusal.message,
        "status": refusal.status,
        "request_id": request_id,
        "code": refusal.code,
    }
    if metadata.get("policy"):
        body["policy"] = metadata["policy"]
    headers = [_header("content-type", "application/json", _OVERWRITE)]
    headers += [_header("www-authenticate", challenge, _APPEND) for challenge in challenges]
    answer = DeniedHttpResponse(
        status=HttpStatus(code=refusal.status), headers=headers, body=json.dumps(body, separators=(",", ":"))
    )
    response = CheckResponse(status=Status(code=_GRPC_CODES[refusal.status]), dynamic_metadata=_struct(metadata))
    if refusal.status == 503:
        answer.headers.append(_header("retry-after", "1", _OVERWRITE))
        response.error_response.CopyFrom(answer)
    else:
        response.denied_response.CopyFrom(answer)
    return _bytes(response)


def _bytes(response: CheckResponse) -> bytes:
    octets: bytes = response.SerializeToString()
    return octets


def _header(name: str, value: str, action: int) -> HeaderValueOption:
    # `append` stays unset: older Envoys look at it alone, and unset means overwrite there.
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)


def _struct(metadata: Mapping[str, str]) -> Struct:
    return Struct(fields={name: Value(string_value=text) for name, text in metadata.items() if text})
