"""Kinds of text in the manifests: names, paths, hosts, methods, headers, addresses.

All stay plain `str` once they are known to be right. What a path pattern means is written in
`docs/routing.md`; here is only what may be written.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from controlplane.expression import program_size
from controlplane.manifests.models.base import nearest, refuse
from controlplane.manifests.models.scalars import shown

LONGEST_PATH = 1024
LONGEST_HEADER_VALUE = 4096
LONGEST_REGEX = 512
LARGEST_PROGRAM = 4000
"""Steps of what RE2 makes of an expression: `[0-9a-f]{64}` has 132. Envoy's bootstrap allows for it."""

METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
    "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "PURGE", "QUERY",
)  # fmt: skip

NOT_IN_A_PATH = re.compile(r"[^!-~]")
"""Spaces, control characters, and whatever is not ASCII."""

_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
_PARAMETER = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()+,;=:@%]*")
_ESCAPE = re.compile(r"%([0-7][0-9A-Fa-f])")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_CODE_POINT = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def _described(what: str, pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": what, "pattern": pattern, "examples": list(examples)})


def _text(check: Callable[[str], str]) -> BeforeValidator:
    """A validator of text that says so when it meets something else."""

    def validate(value: object) -> object:
        if isinstance(value, str):
            return check(value)
        raise refuse(f"expected text, found {shown(value)}", hint=_quoted(value), code="text")

    return BeforeValidator(validate)


def _quoted(value: object) -> str:
    return f'write "{shown(value)}" in quotes' if isinstance(value, (int, float)) else ""


def name(text: str) -> str:
    """A name users give: letters, digits, `.`, `_` and `-` inside."""
    if not re.fullmatch(_NAME, text):
        fixed = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:128]
        raise refuse(
            f"{shown(text)} is not a name: letters, digits, dots, dashes and underscores, beginning and ending with "
            "a letter or digit, at most 128",
            hint=f'write "{fixed}"' if fixed else "",
            code="name",
        )
    return text


Name = Annotated[str, _text(name), _described("A name: letters, digits, dots, dashes, underscores.", f"^{_NAME}$")]


def path_pattern(text: str) -> str:
    """A path pattern. Raises where a segment is none of literal, `:name`, `{name}`, `*`, or `**` at the end."""
    if not text.startswith("/"):
        raise refuse(f"a path starts with /, found {shown(text)}", hint=f'write "/{text}"', code="path")
    if len(text) > LONGEST_PATH:
        raise refuse(f"a path has at most {LONGEST_PATH} characters, found {len(text)}", code="path")
    for mark, why in (("?", "the query is never part of the path; match it with `query`"), ("#", "")):
        if mark in text:
            raise refuse(f"a path has no {mark}, found {shown(text)}", hint=why, code="path")
    if "//" in text:
        raise refuse(f"{shown(text)} has an empty segment", hint=f'write "{re.sub("/+", "/", text)}"', code="path")
    plain = _ESCAPE.sub(_unescaped, text)
    if plain != text:
        raise refuse(
            f"{shown(text)} has an escaped letter, digit or dash, which no request ever has after normalisation",
            hint=f'write "{plain}"',
            code="path",
        )
    names: set[str] = set()
    segments = text[1:].split("/")
    for i, segment in enumerate(segments):
        _segment(text, segment, is_last=i == len(segments) - 1)
        found = _PARAMETER.fullmatch(segment)
        if found:
            parameter = found[1] or found[2]
            if parameter in names:
                raise refuse(f'"{text}" names the parameter "{parameter}" twice', code="path")
            names.add(parameter)
    return text


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character.isalnum() or character == "-" else escape[0]


def _segment(path: str, segment: str, *, is_last: bool) -> None:
    if segment in (".", ".."):
        raise refuse(f'"{path}" has a dot segment, which no request ever has after normalisation', code="path")
    if segment == "**":
        if not is_last:
            raise refuse(
                f'"**" stands for the rest of a path and comes last, found "{path}"',
                hint='write "*" for one segment',
                code="path",
            )
        return
    if segment == "*" or _PARAMETER.fullmatch(segment):
        return
    if "*" in segment:
        raise refuse(
            f'"*" stands for a whole segment, found "{segment}" in "{path}"',
            hint=f'write "{path.partition("*")[0].rpartition("/")[0]}/**" for everything below, or "*" for one segment',
            code="path",
        )
    if segment.startswith(":") or "{" in segment or "}" in segment:
        raise refuse(
            f'"{segment}" in "{path}" is neither a literal nor a parameter',
            hint="a parameter is a whole segment: :name or {name}, of letters, digits and _",
            code="path",
        )
    if not _PATH_CHARACTERS.fullmatch(segment) or re.search(r"%(?![0-9A-Fa-f]{2})", segment):
        raise refuse(
            f'"{segment}" in "{path}" has a character that a path cannot have',
            hint="write it percent-encoded, for example %20 for a space",
            code="path",
        )


PathPattern = Annotated[
    str,
    _text(path_pattern),
    _described(
        "A path: literal segments, `:name` or `{name}` and `*` for one segment, `**` for the rest.",
        r"^/[^?#\s]*$",
        "/orders",
        "/orders/:id",
        "/orders/**",
    ),
]


def literal_path(text: str) -> str:
    """A path without parameters or wildcards."""
    path_pattern(text)
    if "*" in text or any(_PARAMETER.fullmatch(segment) for segment in text.split("/")):
        raise refuse(f"a plain path is needed here, found the pattern {shown(text)}", code="path")
    return text


LiteralPath = Annotated[str, _text(literal_path), _described("A path without wildcards.", r"^/[^?#*\s]*$", "/health")]


def request_target(text: str) -> str:
    """A path, perhaps with a query: what is sent, not what is matched."""
    if not text.startswith("/"):
        raise refuse(f"a path starts with /, found {shown(text)}", hint=f'write "/{text}"', code="path")
    if "#" in text or NOT_IN_A_PATH.search(text):
        raise refuse(
            f"{shown(text)} has a character that a path cannot have", hint="write it percent-encoded", code="path"
        )
    return text


RequestTarget = Annotated[
    str, _text(request_target), _described("A path, perhaps with a query.", r"^/[^#\s]*$", "/health?full=1")
]


def host_name(text: str) -> str:
    """A host name or address in lower case, without a port."""
    if text.startswith("[") and text.endswith("]"):
        found = _ipv6(text)
        if found.scope_id is not None:
            raise refuse(
                f"a host names no interface, found {shown(text)}",
                hint=f'write "{text.partition("%")[0]}]"',
                code="host",
            )
        return f"[{found.compressed}]"
    if re.search(r":\d+$", text) and text.count(":") == 1:
        raise refuse(
            f"a host has no port here, found {shown(text)}", hint=f'write "{text.rpartition(":")[0]}"', code="host"
        )
    if "://" in text or "/" in text:
        bare = text.partition("://")[2].partition("/")[0] or text.partition("/")[0]
        raise refuse(f"expected a host, found {shown(text)}", hint=f'write "{bare}"' if bare else "", code="host")
    if not text.isascii():
        raise refuse(
            f"a host is written in ASCII, found {shown(text)}",
            hint=f'write "{_punycode(text)}"' if _punycode(text) else "write its xn-- form",
            code="host",
        )
    labels = text.removesuffix(".").split(".")
    if not text or len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise refuse(f"{shown(text)} is not a host name", hint="write for example api.example.com", code="host")
    return text.removesuffix(".").lower()


def _ipv6(text: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(text[1:-1])
    except ValueError:
        raise refuse(f"{shown(text)} is not an IPv6 address", code="host") from None


def endpoint_host(text: str) -> str:
    """A host to connect to, without brackets: an IPv6 address may name its interface."""
    if text.startswith("[") and text.endswith("]"):
        found = _ipv6(text)
        check_interface(found)
        return found.compressed
    return host_name(text)


def check_interface(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Raises unless `address` names an interface exactly where it needs one to be an address at all: `fe80::1%eth0`."""
    zone = address.scope_id if isinstance(address, ipaddress.IPv6Address) else None
    if zone is not None and not address.is_link_local:
        raise refuse(
            f"only a link-local address names an interface, found {shown(str(address))}",
            hint=f'write "{str(address).partition("%")[0]}"',
            code="address",
        )
    if zone is not None and not _INTERFACE.fullmatch(zone):
        raise refuse(f"{shown(zone)} is not the name of an interface", hint="write for example eth0", code="address")
    if zone is None and address.version == 6 and address.is_link_local:
        raise refuse(
            f"{shown(str(address))} is link-local: every interface may have it",
            hint=f'name the interface: "{address}%eth0"',
            code="address",
        )


def _punycode(text: str) -> str:
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        return ""


HostName = Annotated[str, _text(host_name), _described("A host name.", r"^[^\s/*]+$", "api.example.com")]


def host_pattern(text: str) -> str:
    """A host name, `*.` and a suffix, or `*`; in lower case."""
    if text == "*":
        return text
    if text.startswith("*.") and "*" not in text[2:]:
        return "*." + host_name(text[2:])
    if "*" in text:
        raise refuse(
            f'"*" stands at the beginning of a host and for whole labels, found {shown(text)}',
            hint='write "*.example.com" or "*"',
            code="host",
        )
    return host_name(text)


HostPattern = Annotated[
    str,
    _text(host_pattern),
    _described(
        "A host name, or `*.` and what it ends with, or `*` for any.", r"^[^\s/]+$", "api.example.com", "*.example.com"
    ),
]


def method(text: str) -> str:
    """A registered HTTP method."""
    if text in METHODS:
        return text
    guess = nearest(text, METHODS)
    raise refuse(
        f"{shown(text)} is not an HTTP method",
        hint=f'did you mean "{guess}"?' if guess else "leave `methods` out to accept any method",
        code="method",
    )


Method = Annotated[
    str,
    _text(method),
    WithJsonSchema({"type": "string", "description": "An HTTP method, in capitals.", "enum": list(METHODS)}),
]


def header_name(text: str) -> str:
    """A header's name, in lower case."""
    if text.startswith(":"):
        raise refuse(
            f"{shown(text)} is a pseudo-header of HTTP/2",
            hint="match `path`, `methods` or `hosts` instead",
            code="header",
        )
    if not _TOKEN.fullmatch(text) or len(text) > 128:
        raise refuse(f"{shown(text)} is not a header name", hint='write for example "x-request-id"', code="header")
    return text.lower()


HeaderName = Annotated[
    str, _text(header_name), _described("A header's name.", r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$", "x-request-id")
]


def header_value(text: str) -> str:
    """A header's value: visible ASCII, spaces and tabs inside, nothing that could end the line."""
    if len(text) > LONGEST_HEADER_VALUE:
        raise refuse(f"a header value has at most {LONGEST_HEADER_VALUE} characters, found {len(text)}", code="header")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text) or not text.isascii():
        raise refuse("a header value is one line of ASCII without control characters", code="header")
    if text != text.strip():
        raise refuse("a header value has no space around it", hint=f'write "{text.strip()}"', code="header")
    return text


HeaderValue = Annotated[str, _text(header_value), _described("A header's value.", r"^[\t -~]*$")]


def regex(text: str) -> str:
    """A regular expression that Envoy takes: one of RE2, which is asked itself, and not too large."""
    if not text:
        raise refuse(
            "an empty regular expression, which Envoy does not take",
            hint="write what is to be matched; .* is anything",
            code="regex",
        )
    if len(text) > LONGEST_REGEX:
        raise refuse(f"a regular expression has at most {LONGEST_REGEX} characters, found {len(text)}", code="regex")
    try:
        size = program_size(text)
    except ValueError as problem:
        raise refuse(
            f"{shown(text)} is not a regular expression of RE2, which Envoy uses: {problem}",
            hint=_of_re2(text, str(problem)),
            code="regex",
        ) from None
    if size > LARGEST_PROGRAM:
        raise refuse(
            f"{shown(text)} is too large: RE2 makes {size} steps of it, of at most {LARGEST_PROGRAM}",
            hint="a repetition is written out, {20,200} as 200 times: write + or repeat less",
            code="regex",
        )
    return text


def _of_re2(text: str, why: str) -> str:
    """What to write in place of what other dialects have."""
    if point := _CODE_POINT.search(text):
        code = int(point[1] or point[2], 16)
        return rf"write \x{{{code:02x}}}" if code < 0x80 else "write the character itself"
    match why.partition(":")[0]:
        case "invalid repetition size":
            return "it repeats at most 1000 times, repetitions inside one another multiplied"
        case "bad repetition operator":
            return "it has no possessive repetitions: write one of * + ? {n,m}"
        case "invalid perl operator" | "invalid named capture group" | "invalid escape sequence":
            return r"it looks neither around nor back, (?= or \1, and its end is $ or \z: use several conditions"
        case _:
            return ""


Regex = Annotated[str, _text(regex), _described("A regular expression (RE2) for the whole value.", r"^[\s\S]+$")]


def cidr(text: str) -> str:
    """An address or a network, in its usual form."""
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise refuse(
            f"{shown(text)} is not an IP address or network", hint='write for example "10.0.0.0/8"', code="cidr"
        ) from None
    raise refuse(f"{shown(text)} has bits set after the prefix", hint=f'write "{network}"', code="cidr")


Cidr = Annotated[str, _text(cidr), _described("An IP address or network.", r"^[0-9A-Fa-f.:/]+$", "10.0.0.0/8")]


def file_path(text: str) -> str:
    """A path of a file, absolute or from the manifests' folder."""
    if not text or "\0" in text:
        raise refuse("expected the path of a file", code="file")
    return text


FilePath = Annotated[
    str,
    _text(file_path),
    _described("A file, absolute or from the manifests' folder.", r"^[\s\S]+$", "certs/edge.crt"),
]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise refuse("expected some text, found none", code="text")
    return text


Sentence = Annotated[str, _text(_not_blank), WithJsonSchema({"type": "string", "minLength": 1})]
"""Free text for people."""

Port = Annotated[
    int,
    AfterValidator(lambda value: value if 0 < value < 65536 else _bad_port(value)),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535}),
]


def _bad_port(value: int) -> int:
    raise refuse(f"a port is from 1 to 65535, found {value}", code="port")
