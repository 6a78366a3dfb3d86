"""The `services:` section: where services are and how much patience the gateway has with them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.manifests.models.base import Model, did_you_mean, refuse
from controlplane.manifests.models.endpoint import Endpoint
from controlplane.manifests.models.identity import AuthField
from controlplane.manifests.models.scalars import Duration, DurationRange, Percent, SizeLimit, Timeout, shown
from controlplane.manifests.models.text import (
    FilePath,
    HostName,
    Method,
    Name,
    Port,
    RequestTarget,
    Sentence,
    header_name,
)

Count = Annotated[int, Field(ge=1, le=1_000_000)]
RETRY_CONDITIONS = ("connect_failure", "reset", "refused_stream", "timeout", "gateway_error", "5xx")


def _condition(value: object) -> str:
    """`5xx` and the like, or one status from 500 to 599."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 500 <= value <= 599:
            return str(value)
        raise refuse(
            f"only 5xx statuses are retried, found {value}",
            hint="a 4xx is an answer about the request and would come again" if 400 <= value < 500 else "",
            code="retry",
        )
    if isinstance(value, str) and (value in RETRY_CONDITIONS or (value.isdigit() and 500 <= int(value) <= 599)):
        return value
    guess = did_you_mean(value.replace("-", "_"), RETRY_CONDITIONS) if isinstance(value, str) else ""
    raise refuse(
        f"{shown(value)} is nothing to retry on",
        hint=guess or "write " + ", ".join(RETRY_CONDITIONS) + " or a status from 500 to 599",
        code="retry",
    )


Condition = Annotated[
    str,
    BeforeValidator(_condition),
    WithJsonSchema(
        {
            "description": "What is retried: a condition, or one status.",
            "anyOf": [{"enum": list(RETRY_CONDITIONS)}, {"type": "integer", "minimum": 500, "maximum": 599}],
        }
    ),
]


class ServiceEndpoint(Model):
    """One address of a service. A plain `host:port` is short for `{address: host:port}`."""

    shorthand = "address"

    address: Endpoint
    """`host:port`, `http://host:port`, `https://host:port` or `unix:/path`."""
    weight: Annotated[int, Field(ge=1, le=128)] = 1
    """Its share of the requests, relative to the others."""
    priority: Annotated[int, Field(ge=0, le=15)] = 0
    """0 is used first; the next only when too few of the one before are healthy."""
    zone: Name | None = None
    """Where it runs."""


class HealthCheck(Model):
    """How every endpoint is asked whether it is well. One of `path`, `grpc` and `tcp`."""

    path: RequestTarget | None = None
    """A GET of this path must be answered with one of `statuses`."""
    grpc: Annotated[str, Field(max_length=256)] | None = None
    """The service to ask for by the gRPC health protocol, over HTTP/2; "" for the server as a whole."""
    tcp: bool = False
    """It is enough that a connection can be made."""
    host: HostName | None = None
    """The Host header of the check. The service's name when left out."""
    statuses: Annotated[tuple[Annotated[int, Field(ge=100, le=599)], ...], Field(min_length=1)] = (200,)
    """The statuses that count as well."""
    interval: Duration = Duration.parse("10s")
    """How often."""
    timeout: Duration = Duration.parse("3s")
    """How long an answer may take."""
    unhealthy_after: Count = 3
    """So many failures in a row take an endpoint out."""
    healthy_after: Count = 2
    """So many successes in a row put it back."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.path is not None) + (self.grpc is not None) + self.tcp != 1:
            raise refuse(
                "a health check has exactly one of `path`, `grpc` and `tcp`",
                hint="write for example {path: /health}",
                code="health-check",
            )
        if self.timeout > self.interval:
            raise refuse(
                f"a check that may take {self.timeout} every {self.interval} would overlap itself",
                hint="make `timeout` at most `interval`",
                code="health-check",
            )
        return self


class CircuitBreaker(Model):
    """When a service is left alone, and how much of it may be in use at once.

    `consecutive_failures` and `error_rate` open the circuit of an endpoint for `open_for`; then it is tried again. With
    every endpoint's circuit open, the service's circuit is open and requests are answered 503 at once.
    """

    consecutive_failures: Count | None = None
    """So many failures in a row open the circuit. Left out: 5 when there is no `error_rate` either."""
    error_rate: Annotated[Percent, AfterValidator(lambda value: _some_percent(value))] | None = None
    """This share of failures within `window` opens the circuit."""
    min_requests: Count = 10
    """With fewer requests than this in a window, `error_rate` says nothing."""
    window: Duration = Duration.parse("10s")
    """How long failures are counted for `error_rate`."""
    open_for: Duration = Duration.parse("30s")
    """How long an open circuit stays open before it is tried again."""
    max_concurrent: Count = 1024
    """Requests in flight at once, per Envoy; more are answered 503."""
    max_pending: Count = 1024
    """Requests waiting for a connection, per Envoy; more are answered 503."""
    max_connections: Count = 1024
    """Connections, per Envoy."""


def _some_percent(value: Percent) -> Percent:
    if float(value) not in range(1, 101):
        raise refuse(f"an error rate is a whole percentage from 1% to 100%, found {value}", code="percent")
    return value


class Retry(Model):
    """When a failed request is tried again, on another endpoint where there is one."""

    attempts: Annotated[int, Field(ge=0, le=10)] = 2
    """How many more times a failed request is tried; 0 for never."""
    backoff: DurationRange = DurationRange.parse("25ms..250ms")
    """The pause before a retry: begins with the first, doubles up to the last, with jitter."""
    on: Annotated[tuple[Condition, ...], Field(min_length=1)] = ("connect_failure", "refused_stream", "reset", "5xx")
    """What is retried. `gateway_error` is 502, 503 and 504; a 4xx never is."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] | Literal["any"] = ("GET", "HEAD", "OPTIONS")
    """Which methods are retried. Anything that changes something is retried only when it is written here."""
    per_try_timeout: Duration | None = None
    """How long one try may take. Left out: only the whole is timed."""
    budget: Percent = Percent.parse("20%")
    """Retries in flight are at most this share of the requests in flight. Counts on the service, not on a route."""
    budget_minimum: Annotated[int, Field(ge=0, le=1000)] = 3
    """So many retries in flight are always allowed, whatever `budget` says."""


def _hash_key(text: object) -> str:
    """`ip`, `header.<name>` or `cookie.<name>`."""
    if text == "ip":
        return "ip"
    if isinstance(text, str):
        kind, dot, rest = text.partition(".")
        if kind == "header" and rest:
            return f"header.{header_name(rest)}"
        if kind == "cookie" and rest:
            return f"cookie.{header_name(rest)}" if rest.islower() else _cookie(rest)
        if kind in ("header", "cookie") and not dot:
            raise refuse(f"which {kind}?", hint=f'write "{kind}.<name>"', code="hash")
    raise refuse(f"{shown(text)} is nothing to hash", hint="write ip, header.<name> or cookie.<name>", code="hash")


def _cookie(text: str) -> str:
    header_name(text)
    return f"cookie.{text}"


class LoadBalancing(Model):
    """How an endpoint is chosen. A plain word is short for `{policy: word}`."""

    shorthand = "policy"

    policy: Literal["round_robin", "least_request", "random", "hash"] = "least_request"
    """`hash` sends what is equal in `by` to the same endpoint."""
    by: (
        Annotated[
            str,
            BeforeValidator(_hash_key),
            WithJsonSchema({"type": "string", "pattern": r"^(ip|header\..+|cookie\..+)$"}),
        ]
        | None
    ) = None
    """With `hash`: `ip`, `header.<name>` or `cookie.<name>`."""
    cookie_ttl: Duration | None = None
    """With a cookie that the client has not got: the gateway makes one that lives so long."""

    @model_validator(mode="after")
    def _hash_has_a_key(self) -> Self:
        if (self.policy == "hash") != (self.by is not None):
            raise refuse("`hash` and `by` go together", hint="write {policy: hash, by: ip}", code="load-balancing")
        if self.cookie_ttl is not None and not (self.by or "").startswith("cookie."):
            raise refuse("`cookie_ttl` needs `by: cookie.<name>`", code="load-balancing")
        return self


class ServiceTls(Model):
    """TLS to a service. `tls: {}` is enough where the service's certificate is signed by a public authority."""

    verify: bool = True
    """Whether the certificate must be valid for the service. Turn it off knowingly or not at all."""
    ca: FilePath | None = None
    """The authorities to trust, PEM. The system's when left out."""
    server_name: HostName | None = None
    """The name asked for by SNI and looked for in the certificate. The endpoint's host when left out."""
    names: tuple[HostName, ...] = ()
    """Names of which the certificate must have one, in place of `server_name`."""
    certificate: FilePath | None = None
    """The gateway's own certificate for the service, PEM."""
    key: FilePath | None = None
    """Its key, PEM."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise refuse("`certificate` and `key` go together", hint="write both or neither", code="tls")
        if not self.verify and (self.ca or self.names):
            raise refuse("`verify: false` ignores `ca` and `names`", hint="leave `verify` out", code="tls")
        return self


_LONGEST_KEEP_ALIVE_MS = 9 * 3_600_000  # Linux takes 32767 s for TCP_KEEPIDLE and TCP_KEEPINTVL
_SHORTEST_REFRESH_MS = 2  # Envoy wants more than one


class Connections(Model):
    """The pool of connections to each endpoint."""

    idle_timeout: Duration = Duration.parse("60s")
    """An unused connection is closed after this."""
    max_requests: Count | None = None
    """A connection is closed after so many requests."""
    max_streams: Count | None = None
    """Requests at once on one HTTP/2 connection."""
    keep_alive: Duration | None = None
    """TCP keep-alive probes after this much silence; at most 9h."""

    @model_validator(mode="after")
    def _as_the_system_can(self) -> Self:
        if self.keep_alive is not None and self.keep_alive.ms > _LONGEST_KEEP_ALIVE_MS:
            raise refuse(
                f"no system waits {self.keep_alive} with a probe: every connection would fail",
                hint="at most 9h",
                code="duration",
            )
        return self


def _refresh(value: Duration) -> Duration:
    if value.ms < _SHORTEST_REFRESH_MS:
        raise refuse(f"names cannot be looked up every {value}", hint="at least 2ms", code="duration")
    return value


class Dns(Model):
    """How an endpoint's host name becomes addresses."""

    refresh: Annotated[Duration, AfterValidator(_refresh)] = Duration.parse("5s")
    """How often names are looked up again; at least 2ms."""
    family: Literal["auto", "ipv4", "ipv6", "ipv4_preferred", "all"] = "ipv4_preferred"
    """Which addresses are used."""


class Maintenance(Model):
    """Every request is answered 503, politely."""

    enabled: bool = True
    """So that it can be switched by a variable: `enabled: ${MAINTENANCE:-false}`."""
    message: Sentence = "Down for maintenance"
    """What the answer says."""
    retry_after: Duration | None = None
    """Sent as Retry-After."""


class Service(Model):
    """A service behind the gateway."""

    endpoints: Annotated[tuple[ServiceEndpoint, ...], Field(min_length=1, max_length=1000)]
    """Where it listens: `host:port` or `{address, weight, priority, zone}`, one or many."""
    protocol: Literal["http1", "http2", "grpc", "auto"] = "http1"
    """What it speaks. `grpc` is HTTP/2 that keeps trailers; `auto` asks by ALPN and needs `tls`."""
    tls: ServiceTls | None = None
    """TLS to the service, verified by default. An `https://` endpoint has it anyway."""
    host: Literal["original", "endpoint"] | HostName = "original"
    """The Host header it sees: the client's, the endpoint's host name, or this one."""
    timeout: Timeout | None = None
    """How long a request may take in all, retries included. The gateway's default when left out."""
    idle_timeout: Timeout | None = None
    """How long a request may be silent. The gateway's default when left out."""
    connect_timeout: Duration = Duration.parse("2s")
    """How long a connection may take to be made."""
    body_limit: SizeLimit | None = None
    """The largest request body, held until it is complete; `none` lets it stream. The gateway's when left out."""
    retry: Retry | None = None
    """When a failed request is tried again. The gateway's default when left out."""
    circuit_breaker: CircuitBreaker | None = None
    """When the service is left alone. The gateway's default when left out."""
    health_check: HealthCheck | None = None
    """How its endpoints are watched. Not at all when left out."""
    load_balancing: LoadBalancing = LoadBalancing()
    """How an endpoint is chosen: round_robin, least_request, random, or `{policy: hash, by: ip}`."""
    connections: Connections = Connections()
    """The pool of connections."""
    dns: Dns = Dns()
    """How host names become addresses."""
    auth: AuthField | None = None
    """What its routes ask of callers, added to the gateway's defaults."""
    critical: bool = False
    """Whether the gateway is ready only while this service has an endpoint that takes requests: the control plane's
    `/health/ready` says 503 without one."""
    maintenance: Maintenance | None = None
    """Answer 503 for all of it."""
    description: Sentence | None = None
    """For people."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        schemes = {endpoint.address.scheme for endpoint in self.endpoints}
        if {"http", "https"} <= schemes:
            raise refuse("endpoints of one service are all http or all https", code="endpoint")
        if self.tls is not None and "http" in schemes:
            raise refuse(
                "`tls` and an http:// endpoint contradict each other", hint="write https:// or no scheme", code="tls"
            )
        if self.protocol == "auto" and self.tls is None and "https" not in schemes:
            raise refuse(
                "`protocol: auto` asks by ALPN and needs `tls`",
                hint="write `tls: {}` or http1 or http2",
                code="protocol",
            )
        if self.protocol == "http1" and self.health_check is not None and self.health_check.grpc is not None:
            raise refuse(
                "a gRPC health check needs HTTP/2, and this service speaks http1",
                hint="write `protocol: grpc`, or check a `path`",
                code="health-check",
            )
        return self


__all__ = [
    "CircuitBreaker",
    "Connections",
    "Dns",
    "HealthCheck",
    "LoadBalancing",
    "Maintenance",
    "Port",
    "Retry",
    "Service",
    "ServiceEndpoint",
    "ServiceTls",
]
