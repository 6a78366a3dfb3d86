"""The `gateway:` section: where the gateway listens and what holds for every request unless a route says otherwise."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.manifests.models.base import Model, refuse
from controlplane.manifests.models.cors import CorsField
from controlplane.manifests.models.identity import AuthField
from controlplane.manifests.models.route import HeaderChanges
from controlplane.manifests.models.scalars import Duration, Size, SizeLimit, Timeout, shown
from controlplane.manifests.models.service import CircuitBreaker, Count, Maintenance, Retry
from controlplane.manifests.models.text import FilePath, Name, Port, check_interface


def _address(text: object) -> str:
    try:
        address = ipaddress.ip_address(text if isinstance(text, str) else "")
    except ValueError:
        raise refuse(
            f"{shown(text)} is not an IP address", hint='write "0.0.0.0" for every interface', code="address"
        ) from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            raise refuse(f"{shown(text)} is an IPv4 address", hint=f'write "{address.ipv4_mapped}"', code="address")
        if address.is_multicast:
            raise refuse(f"no connection can be made to {shown(text)}: it is a group's", code="address")
    check_interface(address)
    return str(address)


IpAddress = Annotated[
    str,
    BeforeValidator(_address),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(%[\w.-]+)?$", "examples": ["0.0.0.0", "127.0.0.1"]}),
]


class ListenerTls(Model):
    """TLS on a listener."""

    certificate: FilePath
    """The certificate and its chain, PEM."""
    key: FilePath
    """Its key, PEM."""


class Listener(Model):
    """A port to answer on. A plain number is short for `{port: number}`."""

    shorthand = "port"

    port: Port
    """The port."""
    address: IpAddress = "0.0.0.0"
    """The interface: `0.0.0.0` for every one. A link-local address names its own: `fe80::1%eth0`."""
    tls: ListenerTls | None = None
    """TLS. Plain HTTP when left out."""


class Defaults(Model):
    """What holds where neither the service nor the route says otherwise."""

    timeout: Timeout = Timeout.parse("10s")
    """How long a request may take in all, retries included; `none` for no limit."""
    idle_timeout: Timeout = Timeout.parse("5m")
    """How long a request may be silent."""
    body_limit: SizeLimit = SizeLimit.parse("10MB")
    """The largest request body, held until it is complete; more is answered 413. `none` lets bodies stream."""
    retry: Retry = Retry(attempts=1)
    """When a failed request is tried again."""
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    """When a service is left alone."""
    cors: CorsField = "none"
    """Which pages of other origins may call."""
    auth: AuthField | None = None
    """What every route asks of callers; authentication is required unless a route says `public`."""


class Normalization(Model):
    """What a request's path is before any route is looked at. Slashes are merged and dot segments resolved always."""

    escaped_slashes: Literal["reject", "redirect", "forward", "keep"] = "redirect"
    """`%2F` and `%5C`: answer 400; redirect to the path with them resolved; resolve them; or leave them alone."""
    headers_with_underscores: Literal["reject", "drop", "allow"] = "reject"
    """A header such as `x_user`, which some services take for `x-user`: answer 400, drop the header, or allow it."""


class Clients(Model):
    """How much a client may ask for."""

    max_header_size: Size = Size.parse("60KiB")
    """All headers of a request together; more is answered 431."""
    max_headers: Annotated[int, Field(ge=1, le=1000)] = 100
    """Headers of a request; more is answered 431."""
    headers_timeout: Duration = Duration.parse("10s")
    """How long a client may take to send its headers."""
    idle_timeout: Duration = Duration.parse("1h")
    """A connection without requests is closed after this."""
    max_connections: Count | None = None
    """Connections to the gateway at once."""

    @model_validator(mode="after")
    def _envoy_bounds(self) -> Self:
        if not 1024 <= self.max_header_size <= 8192 * 1024:
            raise refuse(f"`max_header_size` is from 1KiB to 8MiB, found {self.max_header_size}", code="size")
        return self


class Gateway(Model):
    """The gateway itself."""

    name: Annotated[Name, Field(max_length=100)] = "causeway"
    """Its name in metrics and in the rate limits' domain."""
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1, max_length=64)] = (Listener(port=8080),)
    """Where it answers."""
    defaults: Defaults = Defaults()
    """What holds where neither the service nor the route says otherwise."""
    trusted_proxies: Annotated[int, Field(ge=0, le=16)] = 0
    """How many proxies stand in front: the client is that many addresses from the end of X-Forwarded-For. With 0, the
    header is not believed and the client is who connects."""
    normalization: Normalization = Normalization()
    """What a request's path is before any route is looked at."""
    clients: Clients = Clients()
    """How much a client may ask for."""
    keep_request_id: bool = False
    """Whether a client's own `x-request-id` is kept. Otherwise each request gets a new one."""
    response_headers: HeaderChanges = HeaderChanges()
    """Changes of the headers of every response."""
    rate_limit_headers: Literal["ietf", "x", "both", "none"] = "ietf"
    """How responses tell what is left of limits: `RateLimit-Policy` and `RateLimit`, `X-RateLimit-*`, both or none."""
    drain_timeout: Duration = Duration.parse("5s")
    """How long an HTTP/2 connection that is asked to close, because its listener changes, still takes requests."""
    maintenance: Maintenance | None = None
    """Answer 503 for everything."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        seen: set[tuple[str, int]] = set()
        for listener in self.listeners:
            if (listener.address, listener.port) in seen:
                raise refuse(f"two listeners on {listener.address}:{listener.port}", hint="keep one", code="listener")
            seen.add((listener.address, listener.port))
        return self
