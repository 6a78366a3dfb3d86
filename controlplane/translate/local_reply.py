"""What clients get when the gateway itself answers: one JSON shape with a stable code, no Envoy text.

Envoy names the cause of an answer of its own by its response code details and flags; each row below turns one
cause into a status, a code and a message. Answers that somebody wrote on purpose (direct responses, redirects,
denials by our services) pass as they are. `docs/errors.md` lists the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import DataSource, RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct, Value

from controlplane.translate.encode import packed
from controlplane.translate.text import literal

REQUEST_ID = "%REQUEST_HEADER(x-request-id)%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One cause and its answer. `status` replaces Envoy's where the field's usual answer is another."""

    code: str
    error: str
    message: str
    flags: tuple[str, ...] = ()
    details: str = ""
    is_status: int | None = None
    at_least: int | None = None
    status: int | None = None


WRITTEN_ON_PURPOSE = ("direct_response", "ext_authz_denied", "request_rate_limited", "cors_response")

REPLIES: tuple[Reply, ...] = (
    Reply(
        code="route_not_found",
        error="Not Found",
        message="No route matches this request.",
        flags=("NR",),
        is_status=404,
    ),
    Reply(
        code="body_too_large",
        error="Content Too Large",
        message="The request body is larger than this route allows.",
        is_status=413,
    ),
    Reply(
        code="headers_too_large",
        error="Request Header Fields Too Large",
        message="The request headers are larger than the gateway allows.",
        is_status=431,
    ),
    Reply(
        code="request_timeout",
        error="Request Timeout",
        message="The request was not received completely in time.",
        is_status=408,
    ),
    Reply(
        code="authorization_unavailable",
        error="Service Unavailable",
        message="The request could not be authorized now.",
        flags=("UAEX",),
        at_least=500,
        status=503,
    ),
    Reply(
        code="rate_limit_unavailable",
        error="Service Unavailable",
        message="The request could not be counted against its limits now.",
        flags=("RLSE",),
        at_least=500,
        status=503,
    ),
    Reply(
        code="no_healthy_endpoint",
        error="Service Unavailable",
        # Envoy calls the three the same; `causeway status` tells 0 of 2 endpoints from 0 of 0.
        message="No endpoint takes requests: the circuit is open, health checks fail, or no name resolves.",
        flags=("UH",),
        status=503,
    ),
    Reply(
        code="overloaded",
        error="Service Unavailable",
        message="The service has as many requests in flight as it may have.",
        flags=("UO",),
        status=503,
    ),
    Reply(
        code="gateway_overloaded",
        error="Service Unavailable",
        message="The gateway is shedding load.",
        flags=("OM",),
        status=503,
    ),
    Reply(
        code="service_unavailable",
        error="Service Unavailable",
        message="The route's service is not configured.",
        flags=("NC",),
        status=503,
    ),
    Reply(
        code="upstream_timeout",
        error="Gateway Timeout",
        message="The service did not answer in time.",
        flags=("UT", "SI", "DT", "UMSDR"),
        at_least=408,
        status=504,
    ),
    Reply(
        code="connection_failed",
        error="Service Unavailable",
        message="The service could not be reached.",
        flags=("UF",),
        status=503,
    ),
    Reply(
        code="bad_gateway",
        error="Bad Gateway",
        message="The service broke off or did not answer in HTTP.",
        flags=("UC", "UR", "UPE", "LR"),
        at_least=500,
        status=502,
    ),
    Reply(
        code="upgrade_not_allowed",
        error="Forbidden",
        message="This route takes no protocol upgrade.",
        details="upgrade_failed",
        status=403,
    ),
    Reply(
        code="bad_request",
        error="Bad Request",
        message="The request is not valid HTTP for this gateway.",
        is_status=400,
    ),
    Reply(
        code="internal_error",
        error="Internal Server Error",
        message="The gateway could not handle this request.",
        at_least=500,
    ),
    Reply(code="refused", error="Refused", message="The gateway refused this request.", at_least=400),
)


@cache
def local_reply_config() -> LocalReplyConfig:
    """The mapping of every answer of Envoy's own. The first mapper that matches decides."""
    return LocalReplyConfig(mappers=list(map(_mapper, REPLIES)))


def error_body(status: int | None, code: str, error: str, message: str) -> SubstitutionFormatString:
    """The one error shape. Envoy fills in the request id, and the status where it is not known before.

    The texts are the user's, and come out as they are written.
    """
    return SubstitutionFormatString(
        json_format=Struct(
            fields={
                "error": _text(literal(error)),
                "message": _text(literal(message)),
                "status": Value(number_value=float(status)) if status is not None else _text("%RESPONSE_CODE%"),
                "request_id": _text(REQUEST_ID),
                "code": _text(code),
            }
        ),
        content_type="application/json",
    )


def _mapper(reply: Reply) -> ResponseMapper:
    return ResponseMapper(
        filter=_filter(reply),
        status_code=reply.status,
        body=DataSource(inline_string=""),
        body_format_override=error_body(reply.status, reply.code, reply.error, reply.message),
    )


def _filter(reply: Reply) -> AccessLogFilter:
    filters = [_expression(reply.details)]
    if reply.flags:
        filters.append(AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(reply.flags))))
    if reply.is_status is not None:
        filters.append(_status(ComparisonFilterOp.EQ, reply.is_status))
    if reply.at_least is not None:
        filters.append(_status(ComparisonFilterOp.GE, reply.at_least))
    if len(filters) == 1:
        return filters[0]
    return AccessLogFilter(and_filter=AndFilter(filters=filters))


def _status(comparison: ComparisonFilterOp, status: int) -> AccessLogFilter:
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(
            comparison=ComparisonFilter(
                op=comparison, value=RuntimeUInt32(default_value=status, runtime_key=f"causeway.status.{status}")
            )
        )
    )


def _expression(details: str) -> AccessLogFilter:
    if details:
        text = f"response.code_details == '{details}'"
    else:
        names = ", ".join(f"'{name}'" for name in WRITTEN_ON_PURPOSE)
        text = f"!(response.code_details in [{names}])"
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=packed(ExpressionFilter(expression=text))
        )
    )


def _text(text: str) -> Value:
    return Value(string_value=text)
