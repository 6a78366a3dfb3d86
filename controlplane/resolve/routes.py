"""Routes as users write them → routes in match order.

Order: the host first (an exact host, then the longest wildcard, then any), then the path
(`controlplane.resolve.paths`), then methods (fewer before more before all), then conditions on headers and query (more
before fewer), then their text. None of it depends on where a route is written. Two routes that no request can tell
apart are a problem: the same host, path shape and conditions, and methods that overlap without one list being part of
the other.

Envoy looks for the host first and never comes back, so a route without a host is in every virtual host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from operator import attrgetter

from controlplane.ir import route as ir
from controlplane.ir.identity import Identity
from controlplane.ir.limit import RouteLimit
from controlplane.manifests.models import route as written
from controlplane.manifests.models.base import did_you_mean
from controlplane.manifests.models.document import Manifest, RouteGroup
from controlplane.manifests.models.gateway import Gateway
from controlplane.manifests.models.identity import Auth
from controlplane.manifests.models.service import Service
from controlplane.memo import by_identity, same
from controlplane.origin import Origin
from controlplane.resolve import paths
from controlplane.resolve.actions import action, body_limit, cross_origin, mutations, response_headers
from controlplane.resolve.findings import Findings, Path
from controlplane.resolve.identity import RouteMeaning, authorization

ANY_HOST = "*"
_Texts = tuple[tuple[str, str, str], ...]
_Meaning = tuple[object, ...]
_Order = tuple[tuple[tuple[int, str], ...], int, tuple[str, ...], int, _Texts, _Texts]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A route on one host, with what its place in the order depends on."""

    host: str
    index: int
    """Of the route in its document."""
    pattern: paths.Pattern
    route: ir.Route

    @cached_property
    def order(self) -> _Order:
        """Sort key: the most specific first."""
        match = self.route.match
        conditions = match.headers + match.query
        return (
            self.pattern.order,
            len(match.methods) or 1000,
            match.methods,
            -len(conditions),
            tuple((c.name, c.kind, c.value) for c in match.headers),
            tuple((c.name, c.kind, c.value) for c in match.query),
        )

    @cached_property
    def meaning(self) -> _Meaning:
        """Equal for routes that differ in their methods at most."""
        return (self.host, self.pattern.shape, self.route.match.headers, self.route.match.query)


def virtual_hosts(
    manifest: Manifest,
    identity: Identity,
    limits: tuple[RouteLimit, ...],
    findings: Findings,
) -> tuple[ir.VirtualHost, ...]:
    """The routes of the manifest by host, most specific first."""
    # Values of equal content get one identity, by which the meaning of an unchanged document is remembered.
    identity, limits = same(identity), same(limits)
    found: list[tuple[int, tuple[Candidate, ...]]] = []
    first = 0
    for group in manifest.route_groups:
        named = _named(group)
        services = tuple(map(manifest.services.get, named.services))
        if None in services or not all(name in manifest.limits for name in named.limits):
            _report_unknown(group, first, manifest, findings)
        candidates, problems = _meanings(group, manifest.gateway, identity, limits, *services)
        for index, problem in problems:
            path: Path = ("routes", first + index)
            findings.add((*path, "auth") if group.routes[index].auth is not None else path, problem, code="auth")
        found.append((first, candidates))
        first += len(group.routes)
    groups = [_group(candidates) for _, candidates in found]
    _refuse_twins([(first, group) for (first, _), group in zip(found, groups, strict=True)], findings)
    hosts = sorted({host for group in groups for host in group.by_host} | {ANY_HOST}, key=_host_order)
    by_host = {host: _in_order(host, groups) for host in hosts}
    return tuple(
        ir.VirtualHost(
            name=host,
            domains=(host,),
            routes=tuple([candidate.route for some in _from_specific(host, by_host) for candidate in some]),
        )
        for host in hosts
    )


def _in_order(host: str, groups: Sequence[_Group]) -> list[Candidate]:
    """The host's own candidates. Each group's are in order already: to sort them is to merge them."""
    return sorted(chain.from_iterable(group.by_host.get(host, ()) for group in groups), key=attrgetter("order"))


def _from_specific(host: str, by_host: Mapping[str, list[Candidate]]) -> list[list[Candidate]]:
    """The host's own routes, then those of wider hosts that hold it, then those of any host."""
    wider = [other for other in by_host if other != host and _holds(other, host)]
    return [by_host[host], *(by_host[other] for other in sorted(wider, key=_host_order))]


def _holds(wide: str, host: str) -> bool:
    if wide == ANY_HOST:
        return True
    return wide.startswith("*.") and host.endswith(wide[1:])


def _host_order(host: str) -> tuple[int, int, str]:
    if host == ANY_HOST:
        return (2, 0, host)
    return (1, -len(host), host) if host.startswith("*") else (0, 0, host)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The candidates of one document, as the whole manifest looks at them. Sets keep their members' hashes."""

    by_host: Mapping[str, tuple[Candidate, ...]]
    by_meaning: Mapping[_Meaning, tuple[Candidate, ...]]
    meanings: frozenset[_Meaning]
    twins: tuple[tuple[Candidate, Candidate], ...]
    """Pairs that no request can tell apart, within the document."""


@by_identity(4096)
def _group(candidates: tuple[Candidate, ...]) -> _Group:
    by_host: dict[str, list[Candidate]] = {}
    by_meaning: dict[_Meaning, tuple[Candidate, ...]] = {}
    for candidate in candidates:
        by_host.setdefault(candidate.host, []).append(candidate)
        by_meaning[candidate.meaning] = (*by_meaning.get(candidate.meaning, ()), candidate)
    return _Group(
        by_host={host: tuple(sorted(some, key=attrgetter("order"))) for host, some in by_host.items()},
        by_meaning=by_meaning,
        meanings=frozenset(by_meaning),
        twins=tuple(pair for some in by_meaning.values() for pair in combinations(some, 2) if _are_twins(*pair)),
    )


def _refuse_twins(groups: Sequence[tuple[int, _Group]], findings: Findings) -> None:
    """`groups` come with the number of their first route."""
    seen: set[_Meaning] = set()
    in_several: set[_Meaning] = set()
    pairs: dict[tuple[int, int], tuple[Candidate, Candidate]] = {}
    for first, group in groups:
        in_several |= seen & group.meanings
        seen |= group.meanings
        pairs |= {(first + one.index, first + other.index): (one, other) for one, other in group.twins}
    for meaning in in_several:
        some = [(first, one) for first, group in groups for one in group.by_meaning.get(meaning, ())]
        for (first, one), (other_first, other) in combinations(some, 2):
            if _are_twins(one, other):
                pairs[first + one.index, other_first + other.index] = (one, other)
    for (number, other_number), (earlier, later) in pairs.items():
        if number != other_number:
            findings.add(
                ("routes", other_number, "path"),
                f'no request can tell the route "{later.route.name}" from "{earlier.route.name}" '
                f"({earlier.route.origin})",
                hint="give them different paths, methods, hosts or conditions, or remove one",
                code="ambiguous-route",
                other=("routes", number, "path"),
            )


def _are_twins(one: Candidate, other: Candidate) -> bool:
    """Of two with the same meaning, whether their methods tell them apart."""
    methods, others = set(one.route.match.methods), set(other.route.match.methods)
    if not methods or not others:
        return methods == others
    return bool(methods & others) and not (methods < others or others < methods)


@dataclass(frozen=True, slots=True)
class _Names:
    """What the routes of a group name, each once. `answering` has the services of each route, by their place here."""

    services: tuple[str, ...]
    limits: tuple[str, ...]
    answering: tuple[tuple[int, ...], ...]


@by_identity(4096)
def _named(group: RouteGroup) -> _Names:
    services: dict[str, int] = {}
    limits: dict[str, None] = {}
    answering = []
    for route in group.routes:
        names = ((route.service,) if route.service is not None else ()) + tuple(s.service for s in route.services or ())
        answering.append(tuple(services.setdefault(name, len(services)) for name in names))
        for mirror in route.mirror:
            services.setdefault(mirror.service, len(services))
        limits |= dict.fromkeys(route.limits)
    return _Names(tuple(services), tuple(limits), tuple(answering))


@by_identity(4096)
def _meanings(
    group: RouteGroup,
    gateway: Gateway,
    identity: Identity,
    limits: tuple[RouteLimit, ...],
    *services: Service | None,
) -> tuple[tuple[Candidate, ...], tuple[tuple[int, str], ...]]:
    """Every route of a document on each of its hosts, and what is wrong, by the route's index in it.

    `services` are those that the group names, in the order of `_named`.
    """
    candidates: list[Candidate] = []
    problems: list[tuple[int, str]] = []
    for index, (route, origin, places) in enumerate(
        zip(group.routes, group.origins, _named(group).answering, strict=True)
    ):
        answering = tuple(service for place in places if (service := services[place]) is not None)
        found, wrong = _meaning(index, route, origin, gateway, identity, limits, answering)
        candidates += found
        problems += ((index, problem) for problem in wrong)
    return tuple(candidates), tuple(problems)


def _meaning(
    index: int,
    route: written.Route,
    origin: Origin,
    gateway: Gateway,
    identity: Identity,
    limits: tuple[RouteLimit, ...],
    services: tuple[Service, ...],
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The route on each of its hosts, and what is wrong with its `auth`. `services` are those that answer."""
    pattern = paths.parse(route.path)
    match = ir.RouteMatch(
        path=pattern.matcher,
        methods=_methods(route.methods),
        headers=tuple(_value(name, one) for name, one in sorted(route.headers.items())),
        query=tuple(_value(name, one) for name, one in sorted(route.query.items())),
    )
    done = action(route, pattern, services, gateway)
    built: list[Candidate] = []
    problems: dict[str, None] = {}
    for host in route.hosts or (None,):
        levels = (gateway.defaults.auth, *_strictest_last(services), route.auth)
        asked, wrong = authorization(
            tuple(level for level in levels if level is not None), RouteMeaning(path=route.path, host=host), identity
        )
        problems |= dict.fromkeys(wrong)
        on_host = ir.Route(
            key=_key(host or ANY_HOST, pattern, match),
            name=route.label,
            pattern=route.path,
            match=match,
            action=done,
            authorization=same(asked),
            origin=origin,
            service=route.service or (route.services[0].service if route.services else None),
            parameters=tuple(pattern.parameters.items()),
            request_headers=mutations(route.request_headers),
            response_headers=response_headers(route, services, gateway),
            body_limit_bytes=body_limit(route, services, gateway),
            cross_origin=cross_origin(route, gateway),
            limits=_limits(route.limits, limits),
        )
        built.append(Candidate(host=host or ANY_HOST, index=index, pattern=pattern, route=on_host))
    return tuple(built), tuple(problems)


def _limits(names: tuple[str, ...], limits: tuple[RouteLimit, ...]) -> tuple[RouteLimit, ...]:
    """The limits that hold everywhere, then the route's own. Unknown ones are left out: they are reported elsewhere."""
    named = {limit.name: limit for limit in limits}
    wanted = dict.fromkeys((*(limit.name for limit in limits if limit.everywhere), *names))
    return tuple(named[name] for name in wanted if name in named)


def _strictest_last(services: tuple[Service, ...]) -> list[Auth]:
    """What several services ask, so that where their modes differ the strictest is the nearest and counts."""
    strictness = {None: 0, "public": 1, "optional": 2, "required": 3}
    return sorted((s.auth for s in services if s.auth is not None), key=lambda auth: strictness[auth.mode])


def _key(host: str, pattern: paths.Pattern, match: ir.RouteMatch) -> str:
    conditions = (f"{c.name} {c.kind} {c.value}" for c in match.headers + match.query)
    return " ".join((",".join(match.methods) or "*", host + pattern.shape, *conditions))


def _methods(methods: tuple[str, ...] | None) -> tuple[str, ...]:
    if methods is None:
        return ()
    return tuple(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))


def _value(name: str, condition: written.ValueMatch) -> ir.ValueMatch:
    if condition.present is not None:
        return ir.ValueMatch(name=name, kind="present" if condition.present else "absent")
    for kind in ("exact", "prefix", "suffix", "contains", "regex"):
        if (value := getattr(condition, kind)) is not None:
            return ir.ValueMatch(name=name, kind=kind, value=value)
    raise ValueError("a condition without a kind")


def _report_unknown(group: RouteGroup, first: int, manifest: Manifest, findings: Findings) -> None:
    """Every name in the group that names nothing."""
    for number, route in enumerate(group.routes, start=first):
        path: Path = ("routes", number)
        named: list[tuple[Path, str]] = [((*path, "service"), route.service)] if route.service is not None else []
        named += [((*path, "services", i, "service"), one.service) for i, one in enumerate(route.services or ())]
        named += [((*path, "mirror", i, "service"), one.service) for i, one in enumerate(route.mirror)]
        for where, name in named:
            if name not in manifest.services:
                hint = near(name, manifest.services) or "known are " + (", ".join(sorted(manifest.services)) or "none")
                findings.add(where, f'unknown service "{name}"', hint=hint)
        for i, name in enumerate(route.limits):
            if name not in manifest.limits:
                findings.add((*path, "limits", i), f'unknown limit "{name}"', hint=near(name, manifest.limits))


def near(name: str, known: Mapping[str, object]) -> str:
    """A hint at the known name that was probably meant."""
    return did_you_mean(name, known)
