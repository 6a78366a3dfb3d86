"""The `routes:` section: which requests are meant, where they go, and what holds for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.expression import groups
from controlplane.manifests.models.base import Model, refuse
from controlplane.manifests.models.cors import CorsField
from controlplane.manifests.models.identity import AuthField
from controlplane.manifests.models.scalars import Percent, SizeLimit, Timeout, shown
from controlplane.manifests.models.service import Maintenance, Retry
from controlplane.manifests.models.text import (
    NOT_IN_A_PATH,
    HeaderName,
    HeaderValue,
    HostName,
    HostPattern,
    LiteralPath,
    Method,
    Name,
    PathPattern,
    Port,
    Regex,
    Sentence,
)

MOST_BODY = 64 * 1024
TARGETS = ("service", "services", "redirect", "respond")

MOST_USED = 9
"""Parts of a path that one rewrite can use: RE2 knows them by one digit."""
_TEMPLATE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|\*\*)\}")


def _headers(value: object) -> object:
    """Header names mean the same in any case, so a mapping may not have one twice."""
    if isinstance(value, dict):
        seen: dict[str, str] = {}
        for key in value:
            if isinstance(key, str) and (other := seen.setdefault(key.lower(), key)) != key:
                raise refuse(f'"{other}" and "{key}" are the same header', hint="keep one of them", code="header")
    return value


Headers = Annotated[Mapping[HeaderName, HeaderValue], BeforeValidator(_headers), Field(max_length=64)]


class HeaderChanges(Model):
    """Changes of headers: first `remove`, then `set`, then `add`."""

    set: Headers = Field(default={})
    """Replaces what is there."""
    add: Headers = Field(default={})
    """Comes beside what is there."""
    remove: Annotated[tuple[HeaderName, ...], Field(max_length=64)] = ()
    """Is taken away."""

    @model_validator(mode="after")
    def _not_the_host(self) -> Self:
        if any(name.lower() == "host" for name in (*self.set, *self.add, *self.remove)):
            raise refuse(
                '"host" cannot be changed as a header',
                hint="for the service it is `rewrite: {host: ...}`; a response has none",
                code="header",
            )
        return self


class ValueMatch(Model):
    """A condition on a value; exactly one. A plain word is short for `{exact: word}`."""

    shorthand = "exact"

    exact: Annotated[str, Field(max_length=4096)] | None = None
    """The value is this."""
    prefix: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The value begins with this."""
    suffix: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The value ends with this."""
    contains: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The value has this in it."""
    regex: Regex | None = None
    """The whole value matches this expression (RE2)."""
    present: bool | None = None
    """`true`: it is there, whatever its value. `false`: it is not there."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise refuse(
                "a condition is exactly one of exact, prefix, suffix, contains, regex and present",
                hint="write for example {prefix: v2}",
                code="match",
            )
        return self


def _template(text: object) -> str:
    """A path with `{parameter}` of the route's path in it, and `{**}` for the rest."""
    if not isinstance(text, str) or not text.startswith("/"):
        raise refuse(f"a path starts with /, found {shown(text)}", hint=f'write "/{text}"', code="rewrite")
    bare = _TEMPLATE.sub("", text)
    if re.search(r"[{}?#\\]", bare) or NOT_IN_A_PATH.search(bare):
        raise refuse(
            f"{shown(text)} is not a path with {{parameters}}",
            hint="write for example /items/{id}, or {**} for the rest of the path",
            code="rewrite",
        )
    return text


Template = Annotated[
    str,
    BeforeValidator(_template),
    WithJsonSchema(
        {"type": "string", "pattern": r"^/[^?#\s]*$", "examples": ["/v2/items/{id}", "/v2/{**}"]},
    ),
]


def _replacement(text: str) -> str:
    if NOT_IN_A_PATH.search(text):
        raise refuse(
            f"{shown(text)} has a character that a path cannot have", hint="write it percent-encoded", code="rewrite"
        )
    return text


class RegexRewrite(Model):
    """A regular expression over the path and what takes the place of what it finds."""

    match: Regex
    """What is looked for (RE2)."""
    replace: Annotated[str, Field(max_length=1024), AfterValidator(_replacement)]
    """What takes its place; `\\1` is the first group."""

    @model_validator(mode="after")
    def _groups_are_there(self) -> Self:
        most = groups(self.match)
        for found in re.finditer(r"\\(.?)", self.replace):
            if found[1] != "\\" and not (found[1].isdecimal() and int(found[1]) <= most):
                raise refuse(
                    f"`replace` has {shown(found[0])}, and `match` has {most or 'no'} group{'' if most == 1 else 's'}",
                    hint=r"\0 is all that was found, \1 the first group, \\ a backslash",
                    code="rewrite",
                )
        return self


class Rewrite(Model):
    """What the service sees in place of what the client sent; the path in one way only."""

    path: Template | None = None
    """The whole path: `/v2/items/{id}`, with the parameters of the route's path, `{**}` for its rest."""
    prefix: LiteralPath | None = None
    """Takes the place of the route's path before `**`."""
    strip_prefix: LiteralPath | None = None
    """Is taken off the front; the route's path begins with it."""
    regex: RegexRewrite | None = None
    """Replaces by a regular expression."""
    host: HostName | None = None
    """The Host header."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [w for w in ("path", "prefix", "strip_prefix", "regex") if getattr(self, w) is not None]
        if len(ways) > 1:
            raise refuse(
                f"the path is rewritten in more than one way: {' and '.join(ways)}", hint="keep one", code="rewrite"
            )
        if not ways and self.host is None:
            raise refuse("nothing is rewritten", hint="write for example {prefix: /v2}", code="rewrite")
        return self


LOCATION: Final = re.compile(r"(?:(https?)://([\w.~%-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?)?(/[!-~]*)?", re.ASCII)
"""Scheme, host, port and path of where a redirect goes."""


def _location(text: object) -> str:
    found = LOCATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise refuse(f"{shown(text)} is nowhere to go", hint="write https://host/path or /path", code="redirect")
    if found[3] is not None and not 1 <= int(found[3]) <= 65_535:
        raise refuse(f"there is no port {found[3]}", hint="1 to 65535", code="redirect")
    return found[0]


class Redirect(Model):
    """The client is sent elsewhere. A plain `https://host/path` or `/path` is short for `{to: ...}`.

    What is not written stays as the request had it.
    """

    shorthand = "to"

    to: (
        Annotated[
            str,
            BeforeValidator(_location),
            WithJsonSchema(
                {
                    "type": "string",
                    "pattern": r"^(https?://([\w.~%-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?)?(/[!-~]*)?$",
                    "examples": ["https://a.b/c"],
                }
            ),
        ]
        | None
    ) = None
    """All of it at once: `https://host/path` or `/path`."""
    scheme: Literal["http", "https"] | None = None
    """The scheme."""
    host: HostName | None = None
    """The host."""
    port: Port | None = None
    """The port."""
    path: Template | None = None
    """The whole path, with the parameters of the route's path; `{**}` for its rest."""
    prefix: LiteralPath | None = None
    """Takes the place of the route's path before `**`."""
    code: Literal[301, 302, 303, 307, 308] = 302
    """The status: 301 and 308 are kept by clients for good, 307 and 308 keep the method."""
    keep_query: bool = True
    """Whether the query goes along."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        parts = [p for p in ("scheme", "host", "port", "path", "prefix") if getattr(self, p) is not None]
        if self.to is not None and parts:
            raise refuse(
                f"`to` and `{parts[0]}` say the same thing twice", hint="keep `to`, or its parts", code="redirect"
            )
        if self.to is None and not parts:
            raise refuse("a redirect goes somewhere else", hint="write for example {scheme: https}", code="redirect")
        if self.path is not None and self.prefix is not None:
            raise refuse("a redirect has a `path` or a `prefix`", hint="keep one", code="redirect")
        return self


class Respond(Model):
    """The gateway itself answers."""

    status: Annotated[int, Field(ge=200, le=599)] = 200
    """The status."""
    body: Annotated[str, Field(max_length=MOST_BODY)] = ""
    """The body, at most 64KiB."""
    content_type: HeaderValue | None = None
    """What the body is. Left out: application/json where the body is JSON, else text/plain."""
    headers: Headers = Field(default={})
    """Headers of the answer."""

    @model_validator(mode="after")
    def _not_the_host(self) -> Self:
        if "host" in self.headers:
            raise refuse('a response has no header "host"', hint="leave it out", code="header")
        return self


class WeightedService(Model):
    """One of several services and its share of the requests."""

    service: Name
    """A service's name."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Its share, relative to the others; 0 for none."""


class Mirror(Model):
    """A copy of requests for a service whose answers nobody sees."""

    shorthand = "service"

    service: Name
    """The service that gets the copies."""
    share: Percent = Percent.parse("100%")
    """How many of the requests are copied."""


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Hosts = Annotated[
    tuple[HostPattern, ...],
    BeforeValidator(_one_or_many, json_schema_input_type=HostPattern | tuple[HostPattern, ...]),
    Field(min_length=1, max_length=100),
]


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise refuse(f'"{value}" is there twice', hint="keep one", code="duplicate")
    return values


class Route(Model):
    """Requests of one kind, where they go, and what holds for them."""

    path: PathPattern
    """Which paths: `/orders`, `/orders/:id`, `/orders/*/items`, `/orders/**`. The most specific route wins."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1), AfterValidator(_distinct)] | None = None
    """Which methods. All when left out; GET brings HEAD."""
    hosts: Hosts | None = None
    """Which hosts: `api.example.com`, `*.example.com`, one or many. All when left out."""
    headers: Annotated[Mapping[HeaderName, ValueMatch], BeforeValidator(_headers), Field(max_length=16)] = {}
    """Headers that the request must have."""
    query: Annotated[
        Mapping[Annotated[str, Field(min_length=1, max_length=256)], ValueMatch], Field(max_length=16)
    ] = {}
    """Query parameters that the request must have."""
    name: Name | None = None
    """What it is called in logs, metrics and messages. Made of methods and path when left out."""

    service: Name | None = None
    """The service that answers."""
    services: Annotated[tuple[WeightedService, ...], Field(min_length=1, max_length=32)] | None = None
    """Several services, each with a share of the requests."""
    redirect: Redirect | None = None
    """The client is sent elsewhere."""
    respond: Respond | None = None
    """The gateway itself answers."""
    mirror: Annotated[tuple[Mirror, ...], Field(max_length=4)] = ()
    """Services that get copies of the requests."""

    rewrite: Rewrite | None = None
    """What the service sees in place of what the client sent."""
    request_headers: HeaderChanges = HeaderChanges()
    """Changes of the request's headers, before the service sees them."""
    response_headers: HeaderChanges = HeaderChanges()
    """Changes of the response's headers, before the client sees them."""
    timeout: Timeout | None = None
    """How long a request may take in all, retries included; `none` for no limit. The service's when left out."""
    idle_timeout: Timeout | None = None
    """How long a request may be silent; `none` for no limit. The service's when left out."""
    retry: Retry | None = None
    """When a failed request is tried again. The service's when left out."""
    body_limit: SizeLimit | None = None
    """The largest request body, held until it is complete; `none` lets it stream. The service's when left out."""
    websocket: bool = False
    """Whether a request may become a WebSocket."""
    auth: AuthField | None = None
    """Who may call: `public`, `optional`, or conditions added to those of the service and the gateway."""
    cors: CorsField | None = None
    """Which pages of other origins may call; `none` where the gateway's default does not hold."""
    limits: Annotated[tuple[Name, ...], AfterValidator(_distinct), Field(max_length=16)] = ()
    """Limits by name, from the `limits` section; all of them hold."""
    maintenance: Maintenance | None = None
    """Answer 503 for this route."""
    description: Sentence | None = None
    """For people."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        targets = [target for target in TARGETS if getattr(self, target) is not None]
        if not targets:
            raise refuse(
                f'the route "{self.path}" goes nowhere',
                hint="write `service`, `services`, `redirect` or `respond`",
                code="target",
            )
        if len(targets) > 1:
            raise refuse(
                f'the route "{self.path}" goes to more than one place: {" and ".join(targets)}',
                hint="keep one",
                code="target",
            )
        if self.service is None and self.services is None:
            for field in ("rewrite", "retry", "timeout", "idle_timeout"):
                if getattr(self, field) is not None:
                    raise refuse(f"`{field}` needs a service, and this route has `{targets[0]}`", code="target")
            if self.websocket or self.mirror:
                unused = "websocket" if self.websocket else "mirror"
                raise refuse(f"`{unused}` needs a service, and this route has `{targets[0]}`", code="target")
        if self.services is not None and not any(s.weight for s in self.services):
            raise refuse("every weight is 0, so nothing answers", code="target")
        _check_templates(self)
        return self

    @property
    def label(self) -> str:
        """Its name, or what it matches: `GET /orders/:id`."""
        if self.name is not None:
            return self.name
        hosts = ",".join(self.hosts or ())
        return " ".join(filter(None, (",".join(self.methods or ()), hosts + self.path)))


def _check_templates(route: Route) -> None:
    """Every parameter that a rewrite or redirect uses is in the route's path."""
    known = {found[1] or found[2] for found in re.finditer(r"/(?::(\w+)|\{(\w+)\})(?=/|$)", route.path)}
    rest = route.path.endswith("/**")
    templates = (
        ("rewrite", route.rewrite and route.rewrite.path),
        ("redirect", route.redirect and route.redirect.path),
    )
    for where, template in templates:
        found = _TEMPLATE.findall(template or "")
        if len(set(found)) > MOST_USED:
            raise refuse(
                f"`{where}` uses {len(set(found))} parts of the path, of at most {MOST_USED}",
                hint="use {**} for several segments at the end",
                code="rewrite",
            )
        for used in found:
            if (used == "**" and not rest) or (used != "**" and used not in known):
                raise refuse(
                    f'`{where}` uses "{{{used}}}", which the path "{route.path}" has not',
                    hint="the path has " + (", ".join(sorted(known | ({"**"} if rest else set()))) or "no parameters"),
                    code="rewrite",
                )
    for where, prefix in (
        ("rewrite.prefix", route.rewrite and route.rewrite.prefix),
        ("redirect.prefix", route.redirect and route.redirect.prefix),
    ):
        if prefix is not None and not rest:
            raise refuse(
                f'`{where}` replaces what stands before `/**`, which the path "{route.path}" has not',
                hint="use `path`",
                code="rewrite",
            )
    strip = route.rewrite.strip_prefix if route.rewrite else None
    if strip is not None:
        fixed = re.split(r"/(?=[:*{])", route.path, maxsplit=1)[0]
        if not (fixed + "/").startswith(strip.rstrip("/") + "/"):
            raise refuse(f'the path "{route.path}" does not begin with "{strip}"', code="rewrite")
