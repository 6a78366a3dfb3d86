"""What is done with the requests of a route: forwarded, redirected, answered; their path, headers, and how patiently.

A setting comes from the route, else from its service, else from the gateway's defaults.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TypeVar

from controlplane.ir import names
from controlplane.ir import route as ir
from controlplane.manifests.models import route as written
from controlplane.manifests.models.gateway import Gateway
from controlplane.manifests.models.scalars import DurationRange
from controlplane.manifests.models.service import LoadBalancing, Maintenance, Retry, Service
from controlplane.resolve import paths

_T = TypeVar("_T")

_COMMON_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CONDITIONS = {
    "connect_failure": ("connect-failure",),
    "refused_stream": ("refused-stream",),
    "reset": ("reset",),
    "timeout": ("reset",),
    "gateway_error": ("gateway-error",),
    "5xx": ("5xx",),
}


def action(route: written.Route, pattern: paths.Pattern, services: tuple[Service, ...], gateway: Gateway) -> ir.Action:
    """What Envoy does with a request that matches. `services` are those that answer."""
    defaults = gateway.defaults
    maintenance = _maintenance(route, services, gateway)
    if maintenance is not None:
        return ir.ErrorResponse(
            status=503, code="maintenance", error="Service Unavailable", message=maintenance.message
        )
    if route.redirect is not None:
        return _redirect(route.redirect, pattern)
    if route.respond is not None:
        return ir.DirectResponse(
            status=route.respond.status,
            body=route.respond.body,
            content_type=route.respond.content_type
            or (_content_type(route.respond.body) if route.respond.body else None),
        )
    first = next(iter(services), None)
    if first is None:  # a service that does not exist has been reported
        return ir.ErrorResponse(
            status=503, code="service_unavailable", error="Service Unavailable", message="No service."
        )
    timeout = _nearest(route.timeout, first.timeout, defaults.timeout)
    idle = _nearest(route.idle_timeout, first.idle_timeout, defaults.idle_timeout)
    host = (route.rewrite.host if route.rewrite else None) or (None if first.host == "original" else first.host)
    hashing = [service.load_balancing for service in services if service.load_balancing.by is not None]
    return ir.Forward(
        clusters=_shares(route),
        timeout_ms=None if timeout.is_none or route.websocket else timeout.ms,
        idle_timeout_ms=0 if idle.is_none else idle.ms,
        retry=_retry(route.retry or first.retry or defaults.retry),
        path_rewrite=_rewrite(route.rewrite, pattern) if route.rewrite else None,
        host_rewrite=None if host == "endpoint" else host,
        keep_host=host is None,
        hash_keys=tuple(dict.fromkeys(map(_hash_key, hashing))),
        websocket=route.websocket,
        mirrors=tuple(
            ir.Mirror(cluster=names.service_cluster(one.service), percent=float(one.share)) for one in route.mirror
        ),
    )


def _maintenance(route: written.Route, services: tuple[Service, ...], gateway: Gateway) -> Maintenance | None:
    levels = (route.maintenance, *(service.maintenance for service in services), gateway.maintenance)
    if route.maintenance is not None and not route.maintenance.enabled:
        return None
    return next((level for level in levels if level is not None and level.enabled), None)


def _content_type(body: str) -> str:
    return "application/json" if re.match(r"\s*[\[{]", body) else "text/plain; charset=utf-8"


def _shares(route: written.Route) -> tuple[ir.WeightedCluster, ...]:
    if route.service is not None:
        return (ir.WeightedCluster(cluster=names.service_cluster(route.service), weight=1),)
    shares = (s for s in route.services or () if s.weight)
    return tuple(ir.WeightedCluster(cluster=names.service_cluster(s.service), weight=s.weight) for s in shares)


def _retry(retry: Retry) -> ir.RetryPolicy | None:
    if retry.attempts == 0:
        return None
    statuses = tuple(sorted(int(on) for on in retry.on if on.isdigit()))
    conditions = dict.fromkeys(name for on in retry.on for name in _CONDITIONS.get(on, ()))
    if statuses:
        conditions["retriable-status-codes"] = None
    return ir.RetryPolicy(
        retries=retry.attempts,
        conditions=tuple(conditions),
        statuses=statuses,
        methods=() if retry.methods == "any" else tuple(sorted(retry.methods)),
        backoff_base_ms=_backoff(retry.backoff)[0],
        backoff_max_ms=_backoff(retry.backoff)[1],
        per_try_timeout_ms=retry.per_try_timeout.ms if retry.per_try_timeout is not None else None,
    )


def _backoff(backoff: DurationRange) -> tuple[int, int]:
    return backoff.first.ms, backoff.last.ms


def _nearest(route: _T | None, service: _T | None, default: _T) -> _T:
    """What the nearest one says. `none` is said too: it is zero, not nothing."""
    if route is not None:
        return route
    return default if service is None else service


def _hash_key(balancing: LoadBalancing) -> ir.HashKey:
    kind, _, name = (balancing.by or "ip").partition(".")
    match kind:
        case "header":
            return ir.HashKey(kind="header", name=name)
        case "cookie":
            ttl = balancing.cookie_ttl
            return ir.HashKey(kind="cookie", name=name, cookie_ttl_ms=ttl.ms if ttl is not None else None)
        case _:
            return ir.HashKey(kind="ip")


def _rewrite(rewrite: written.Rewrite, pattern: paths.Pattern) -> ir.RegexRewrite | None:
    if rewrite.path is not None:
        return _template(rewrite.path, pattern)
    if rewrite.prefix is not None:
        return _template(rewrite.prefix.rstrip("/") + "{**}", pattern)
    if rewrite.strip_prefix is not None:
        prefix = re.escape(rewrite.strip_prefix.rstrip("/"))
        return ir.RegexRewrite(regex=f"^{prefix}(?:/(.*))?$", substitution="/\\1")
    if rewrite.regex is not None:
        return ir.RegexRewrite(regex=rewrite.regex.match, substitution=rewrite.regex.replace)
    return None


def _template(template: str, pattern: paths.Pattern) -> ir.RegexRewrite:
    """A path with `{parameter}`s and `{**}`: groups of the pattern's own expression.

    Only what the template uses has a group: RE2 knows no more than nine in a substitution.
    """
    used = {name: segment for name, segment in pattern.parameters.items() if "{" + name + "}" in template}
    rest = f"\\{1 + len(used)}"
    text = template.replace("\\", "\\\\").replace("/{**}", "{**}").replace("{**}", rest)
    for group, name in enumerate(used, start=1):
        text = text.replace("{" + name + "}", f"\\{group}")
    segments = "^" + pattern.regex(captured=frozenset(used.values()))
    # With nothing else left of the template, a request for the bare prefix must still have a path.
    if text == rest:
        return ir.RegexRewrite(regex=segments + "/?(.*)$", substitution="/" + rest)
    return ir.RegexRewrite(regex=segments + ("(/.*)?" if pattern.has_rest else "/?") + "$", substitution=text)


def _redirect(redirect: written.Redirect, pattern: paths.Pattern) -> ir.Redirect:
    built = ir.Redirect(
        status=redirect.code,
        scheme=redirect.scheme,
        host=redirect.host,
        port=redirect.port,
        keep_query=redirect.keep_query,
    )
    if redirect.to is not None:
        found = written.LOCATION.fullmatch(redirect.to)
        if found is None:
            raise ValueError(redirect.to)
        scheme, host, port, path = found.groups()
        return replace(
            built,
            scheme=scheme,
            host=host,
            port=int(port) if port else None,
            path=path or ("/" if scheme else None),
        )
    if redirect.path is not None:
        return replace(built, regex=_template(redirect.path, pattern))
    if redirect.prefix is not None:
        return replace(built, regex=_template(redirect.prefix.rstrip("/") + "{**}", pattern))
    return built


def mutations(changes: written.HeaderChanges) -> ir.HeaderMutations:
    """Header changes as written → as a value."""
    return ir.HeaderMutations(
        set=tuple(changes.set.items()), add=tuple(changes.add.items()), remove=tuple(changes.remove)
    )


def response_headers(route: written.Route, services: tuple[Service, ...], gateway: Gateway) -> ir.HeaderMutations:
    """Changes of the response's headers."""
    own = mutations(route.response_headers)
    extra = list((route.respond.headers if route.respond else {}).items())
    maintenance = _maintenance(route, services, gateway)
    if maintenance is not None and maintenance.retry_after is not None:
        extra.append(("retry-after", str(max(1, maintenance.retry_after.ms // 1000))))
    return replace(own, set=(*own.set, *extra))


def cross_origin(route: written.Route, gateway: Gateway) -> ir.CrossOrigin | None:
    """What pages of other origins may do on the route; None: nothing."""
    cors = gateway.defaults.cors if route.cors is None else route.cors
    if cors == "none":
        return None
    return ir.CrossOrigin(
        origins=cors.origins,
        methods=cors.methods or route.methods or _COMMON_METHODS,
        headers=cors.headers,
        expose=cors.expose,
        credentials=cors.credentials,
        max_age_s=cors.max_age.ms // 1000,
    )


def body_limit(route: written.Route, targets: tuple[Service, ...], gateway: Gateway) -> int | None:
    """None where a body is a stream that must not be held back: gRPC, WebSocket, and where `none` is written."""
    if route.websocket or any(service.protocol == "grpc" for service in targets):
        return None
    first = next(iter(targets), None)
    limit = _nearest(route.body_limit, first.body_limit if first else None, gateway.defaults.body_limit)
    return None if limit.is_none else limit.bytes
