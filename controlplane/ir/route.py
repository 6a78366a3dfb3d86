"""Virtual hosts and routes: which requests go where, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from controlplane.ir.identity import Authorization
from controlplane.ir.limit import RouteLimit
from controlplane.ir.names import ClusterName
from controlplane.origin import Origin


@dataclass(frozen=True, slots=True)
class ExactPath:
    """One path, with or without a trailing slash."""

    path: str


@dataclass(frozen=True, slots=True)
class PathPrefix:
    """A path and everything below it: `/a` holds `/a`, `/a/` and `/a/b`, not `/ab`. `/` holds everything."""

    prefix: str


@dataclass(frozen=True, slots=True)
class PathRegex:
    """An RE2 expression over the whole path, without the query. Everything it matches begins with `prefix`."""

    regex: str
    prefix: str = ""


PathMatch = ExactPath | PathPrefix | PathRegex


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """A condition on a header or query parameter."""

    name: str
    kind: Literal["exact", "prefix", "suffix", "contains", "regex", "present", "absent"]
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMatch:
    """All of it must hold. No methods means every method."""

    path: PathMatch
    methods: tuple[str, ...] = ()
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`retries` counts tries after the first. No methods means every method is retried."""

    retries: int
    conditions: tuple[str, ...]
    statuses: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    backoff_base_ms: int
    backoff_max_ms: int
    per_try_timeout_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedCluster:
    """A share of a route's traffic: `weight` of the sum of all weights."""

    cluster: ClusterName
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexRewrite:
    """RE2 over the path; `\\1` in the substitution stands for the first group."""

    regex: str
    substitution: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HashKey:
    """What consistent hashing hashes: the client's address, a header, or a cookie that Envoy makes when missing."""

    kind: Literal["ip", "header", "cookie"]
    name: str = ""
    cookie_ttl_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Copies of `percent` of the requests go to `cluster`; nobody waits for its answers."""

    cluster: ClusterName
    percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send the request to one of the clusters."""

    clusters: tuple[WeightedCluster, ...]
    timeout_ms: int | None
    idle_timeout_ms: int | None = None
    retry: RetryPolicy | None = None
    path_rewrite: RegexRewrite | None = None
    host_rewrite: str | None = None
    keep_host: bool = True
    hash_keys: tuple[HashKey, ...] = ()
    websocket: bool = False
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Answer with a redirect. What is None stays as the request had it."""

    status: Literal[301, 302, 303, 307, 308]
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    regex: RegexRewrite | None = None
    keep_query: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectResponse:
    """Answer without a service."""

    status: int
    body: str = ""
    content_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorResponse:
    """Answer with the one error shape. `code` is stable and machine-readable."""

    status: int
    code: str
    error: str
    message: str


Action = Forward | Redirect | DirectResponse | ErrorResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMutations:
    """Header changes, applied as remove, then set (overwrites), then add (appends)."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossOrigin:
    """What pages of other origins may do. An origin is exact, has `*.` for one label or several, or is `*`."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    credentials: bool
    max_age_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One entry of a route table. `key` is stable across edits elsewhere and unique in its virtual host.

    Two routes are equal when they do the same, wherever they are written: `origin` is not compared.
    """

    key: str
    name: str
    pattern: str
    match: RouteMatch
    action: Action
    authorization: Authorization
    origin: Origin = field(compare=False)
    service: str | None = None
    parameters: tuple[tuple[str, int], ...] = ()  # path parameters and the number of their segment, from 0
    request_headers: HeaderMutations = HeaderMutations()
    response_headers: HeaderMutations = HeaderMutations()
    body_limit_bytes: int | None = None
    cross_origin: CrossOrigin | None = None
    limits: tuple[RouteLimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHost:
    """Routes of some domains, most specific first: Envoy takes the first that matches."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
