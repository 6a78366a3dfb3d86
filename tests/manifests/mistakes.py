"""Mistakes people make, each with the place, the words and the suggestion that are expected.

`⟦` stands where the problem must point; it is taken out before the manifest is read. Only the first problem in
the order of places is described where one mistake has several; `only` says that there must be no other.
"""

from __future__ import annotations

from dataclasses import dataclass

MARK = "⟦"


@dataclass(frozen=True)
class Mistake:
    """A manifest with one mistake."""

    id: str
    text: str
    message: str
    hint: str = ""
    only: bool = True


def _service(field: str) -> str:
    return f"services:\n  orders:\n    endpoints: [orders:3000]\n    {field}\n"


def _route(fields: str) -> str:
    return f"services: {{orders: {{endpoints: ['orders:3000']}}}}\nroutes:\n  - {{{fields}}}\n"


def _gateway(field: str) -> str:
    return f"gateway:\n  {field}\n"


YAML = [
    Mistake("a tab in the indentation", "services:\n⟦\torders: {}\n", "a tab in the indentation", "spaces"),
    Mistake("a tab before a list item", "routes:\n⟦\t- {}\n", "a tab in the indentation", "spaces"),
    Mistake("a duplicate key", "routes: []\n⟦routes: []\n", '"routes" is written twice', "line 1"),
    Mistake(
        "a duplicate key deep down",
        _route("path: /a, auth: public, service: orders, ⟦path: /b"),
        '"path" is written twice',
        "line 3",
    ),
    Mistake(
        "a service twice in one file", "services:\n  a: {endpoints: ['a:1']}\n  ⟦a: {endpoints: ['a:2']}\n", "twice"
    ),
    Mistake(
        "an alias",
        "limits:\n  a: &a {rate: 5/min, by: ip}\n  b: ⟦*a\n",
        "aliases (*a) are not read",
        "write the value out",
    ),
    Mistake("a merge key", "limits:\n  a: {⟦<<: {by: ip}, rate: 5/min, by: user}\n", "merge keys", "gateway.defaults"),
    Mistake(
        "a star that is not quoted",
        _route("path: /a, service: orders, hosts: [⟦*.example.com]"),
        "needs quotes",
        "quotes",
    ),
    Mistake("a bare star", "gateway:\n  name: ⟦*\n", "needs quotes", "quotes"),
    Mistake("a tag", "routes: ⟦!!seq []\n", "tag", "leave it out"),
    Mistake("a tag of one's own", _service("timeout: ⟦!duration 10s"), "the tag !duration", "leave it out"),
    Mistake("a bracket that is not closed", "routes: [⟦{path: /a\n", "closing bracket"),
    Mistake("a quote that is not closed", 'gateway:\n  name: ⟦"x\n', "not closed", "close it"),
    Mistake(
        "an indentation that fits nothing",
        "services:\n  a:\n    endpoints: []\n ⟦b: {}\n",
        "does not fit",
        "indentation",
    ),
    Mistake("a colon in a value", "gateway: a⟦: b\n", '":" where no key can be', "quote"),
    Mistake("a brace in a path in brackets", "routes: [{path: /a/⟦{id}, service: x}]\n", "needs quotes", "quotes"),
    Mistake(
        "a key without a value",
        _route("path: /a, auth: public, service: orders, ⟦timeout: "),
        'nothing is written for "timeout"',
    ),
    Mistake(
        "a null", _service("timeout: null").replace("timeout", "⟦timeout"), "nothing is written", "leave the key out"
    ),
    Mistake("an empty item", "gateway:\n  listeners:\n    -⟦\n    - 8080\n", "an item of the list is empty"),
    Mistake("a section without a value", "⟦services:\nroutes: []\n", 'nothing is written for "services"'),
    Mistake("a list at the top", "⟦- path: /a\n", "a document is a mapping"),
    Mistake("words at the top", "⟦hello\n", "a document is a mapping"),
    Mistake("a character that begins nothing", "gateway:\n  name: ⟦@edge\n", "cannot begin a value", "quotes"),
    Mistake("a list as a key", "⟦? [a, b]\n: 1\n".replace("⟦? ", "? ⟦"), "a key is plain text"),
    Mistake("a directive", "⟦%YAML 1.3\n---\nroutes: []\n", "directive", only=False),
    Mistake("a control character", "routes: [] # ⟦\x07\n", "U+0007"),
    Mistake("a private-use character", "routes: [] # ⟦\ue024\n", "U+E024"),
]

VARIABLES = [
    Mistake(
        "a variable that is not set", _service("timeout: ⟦${PATIENCE}"), "PATIENCE is not set", "${PATIENCE:-default}"
    ),
    Mistake("a misspelt variable", _service("timeout: ⟦${ORDERS_TIMEOT}"), "not set", "did you mean ORDERS_TIMEOUT?"),
    Mistake(
        "a variable in the middle of quoted text", _service('description: "at ⟦${NOWHERE}!"'), "NOWHERE is not set"
    ),
    Mistake("a variable without an end", _service("description: x ⟦${ORDERS"), "does not end", "${NAME}"),
    Mistake("a variable without a name", _service("description: x ⟦${}"), '"${}" is not a variable'),
    Mistake("another shell's default", _service("timeout: ⟦${T-10s}"), "is not a variable", "${T:-default}"),
    Mistake(
        "a required variable as shells write it", _service("timeout: ⟦${T:?say}"), "not a variable", "${T:-default}"
    ),
    Mistake(
        "a variable in a variable",
        _service("description: '⟦${A:-${B}}'"),
        "variable inside a variable",
        "plain default",
    ),
    Mistake("a variable with the wrong value", _service("timeout: ⟦${WORD}"), 'found "${WORD}"', "10s"),
    Mistake("a number where the unit is missing, by variable", _service("timeout: ⟦${NUMBER}"), "needs a unit"),
    Mistake("a file that is not there", _service("description: ⟦${file:nowhere.txt}"), '"nowhere.txt" cannot be read'),
    Mistake("no file", _service("description: ⟦${file:}"), "which file?"),
]

KEYS = [
    Mistake("a misspelt section", "⟦service: {}\n", 'unknown key "service"', 'did you mean "services"?'),
    Mistake("a misspelt field of a service", _service("⟦time_out: 5s"), "unknown key", 'did you mean "timeout"?'),
    Mistake("a dash in place of an underscore", _service("⟦circuit-breaker: {}"), "unknown key", '"circuit_breaker"'),
    Mistake("camel case", _service("⟦healthCheck: {path: /h}"), "unknown key", '"health_check"'),
    Mistake("a misspelt field of a route", _route("⟦pth: /a, service: orders"), "unknown key", 'did you mean "path"?'),
    Mistake("method for methods", _route("path: /a, service: orders, ⟦method: [GET]"), "unknown key", '"methods"'),
    Mistake("host for hosts", _route("path: /a, service: orders, ⟦host: a.b"), "unknown key", '"hosts"'),
    Mistake("a misspelt default", _gateway("⟦default: {timeout: 5s}"), "unknown key", 'did you mean "defaults"?'),
    Mistake("a default one level too high", _gateway("⟦timeout: 5s"), "unknown key", "belongs in gateway.defaults"),
    Mistake("a field of another section", _service("⟦listeners: [8080]"), "unknown key", "belongs in gateway"),
    Mistake("a word from elsewhere", _service("⟦upstream: x"), 'unknown key "upstream"'),
    Mistake("a misspelt field of a retry", _service("retry: {⟦attemps: 2}"), "unknown key", '"attempts"'),
    Mistake(
        "a misspelt field of a breaker", _service("circuit_breaker: {⟦eror_rate: 5%}"), "unknown key", '"error_rate"'
    ),
    Mistake(
        "a misspelt field of a limit",
        "limits: {a: {⟦rat: 5/min, by: ip}}\n",
        "unknown key",
        'did you mean "rate"?',
        only=False,
    ),
    Mistake(
        "a misspelt field of an endpoint",
        "services: {a: {endpoints: [{address: 'a:1', ⟦wieght: 2}]}}\n",
        "unknown key",
        '"weight"',
    ),
    Mistake(
        "a service without endpoints",
        "services:\n  ⟦a: {protocol: http1}\n",
        '"endpoints" is missing',
        "Where it listens",
    ),
    Mistake(
        "a route without a path", _route("service: orders").replace("{service: o", "⟦{service: o"), '"path" is missing'
    ),
    Mistake("a limit without keys", "limits:\n  ⟦a: {rate: 5/min}\n", '"by" is missing'),
    Mistake(
        "an issuer without a name",
        "identity:\n  issuers:\n    ⟦main: {audiences: [a], secret: " + "x" * 40 + "}\n",
        '"issuer" is missing',
    ),
]

TYPES = [
    Mistake("a list of services", "⟦services:\n  - a\n", "expected a mapping, found a list", "a name and a colon"),
    Mistake("a mapping of routes", "⟦routes:\n  a: {path: /a}\n", "expected a list, found a mapping", '"- "'),
    Mistake("one route", "⟦routes: {path: /a}\n", "expected a list"),
    Mistake("one endpoint without brackets", "services: {a: {endpoints: ⟦a:1}}\n", "expected a list", "write [a:1]"),
    Mistake(
        "one limit without brackets", _route("path: /a, service: orders, limits: ⟦x"), "expected a list", "write [x]"
    ),
    Mistake(
        "a number in quotes", _service('retry: {attempts: ⟦"2"}'), "expected a whole number", "leave the quotes out"
    ),
    Mistake("a half", _service("retry: {attempts: ⟦1.5}"), "expected a whole number, found 1.5"),
    Mistake("yes", _service("critical: ⟦yes"), 'expected true or false, found "yes"', "write true"),
    Mistake("off", _route("path: /a, service: orders, websocket: ⟦off"), "expected true or false", "write false"),
    Mistake("one for true", _service("critical: ⟦1"), "expected true or false, found 1", "write true"),
    Mistake("a number for text", _route("path: /a, respond: {body: ⟦5}"), "expected text, found 5", "quotes"),
    Mistake("a number for a path", _route("path: ⟦5, service: orders"), "expected text, found 5", "quotes"),
    Mistake("true for a name", "gateway: {name: ⟦true}\n", "expected text, found true"),
    Mistake("a list for a service", "services: {⟦a: []}\n", "expected a mapping, found a list"),
    Mistake("a word for a health check", _service("health_check: ⟦/health"), "expected a mapping", "{path: ...}"),
    Mistake(
        "a mapping for a header",
        _route("path: /a, service: orders, request_headers: {set: {⟦x-a: {b: c}}}"),
        "expected text, found a mapping",
    ),
]

SCALARS = [
    Mistake("a duration without a unit", _service("timeout: ⟦10"), "a duration needs a unit, found 10", '"10s"'),
    Mistake("a duration in words", _service("timeout: ⟦10sec"), "ms, s, m, h or d", 'write "10s"'),
    Mistake("a duration with a space", _service("timeout: ⟦10 s"), "expected a duration", "10s"),
    Mistake("a negative duration", _service("connect_timeout: ⟦-1s"), "expected a duration"),
    Mistake("no duration at all", _service("connect_timeout: ⟦0s"), "more than zero"),
    Mistake("a timeout of nothing", _service("timeout: ⟦0s"), "end every request at once", 'write "none"'),
    Mistake("a duration that is too long", _service("timeout: ⟦4000d"), "longer than 366d"),
    Mistake("a fraction of a millisecond", _service("timeout: ⟦0.5ms"), "whole number of milliseconds"),
    Mistake("minutes by min", _service("timeout: ⟦5min"), "ms, s, m, h or d", 'write "5m"'),
    Mistake("one end of a range", _service("retry: {backoff: ⟦1s}"), "a range of durations", '"1s..1s"'),
    Mistake("a range that runs backwards", _service("retry: {backoff: ⟦2s..1s}"), "backwards", '"1s..2s"'),
    Mistake("names looked up all the time", _service("dns: {refresh: ⟦1ms}"), "looked up every 1ms", "at least 2ms"),
    Mistake("a limit on bodies of nothing", _service("body_limit: ⟦0B"), "cannot be held", '"none"'),
    Mistake(
        "a size without a unit", _gateway("defaults: {body_limit: ⟦1000}"), "a size needs a unit, found 1000", "1000B"
    ),
    Mistake("a size with a letter", _gateway("defaults: {body_limit: ⟦10M}"), "KB, MB", 'write "10MB"'),
    Mistake("a size in another case", _gateway("defaults: {body_limit: ⟦10mb}"), "KB, MB", 'write "10MB"'),
    Mistake("a percentage without a sign", _service("circuit_breaker: {error_rate: ⟦50}"), "ends in %", '"50%"'),
    Mistake("a fraction for a percentage", _service("circuit_breaker: {error_rate: ⟦0.5}"), "ends in %", '"50%"'),
    Mistake("more than all", _service("circuit_breaker: {error_rate: ⟦150%}"), "at most 100%"),
    Mistake("no error rate", _service("circuit_breaker: {error_rate: ⟦0%}"), "from 1% to 100%"),
    Mistake("a rate without a window", "limits: {a: {rate: ⟦5, by: ip}}\n", "expected a rate, found 5", "5/min"),
    Mistake(
        "a rate per fortnight",
        "limits: {a: {rate: ⟦5/fortnight, by: ip}}\n",
        'unknown window "fortnight"',
        "second, min, hour",
    ),
    Mistake("a rate of nothing", "limits: {a: {rate: ⟦0/min, by: ip}}\n", "must allow something"),
    Mistake("a burst of nothing", "limits: {a: {rate: ⟦5/min burst 0, by: ip}}\n", "burst of 0"),
]

TEXTS = [
    Mistake("a path without a slash", _route("path: ⟦orders, service: orders"), "starts with /", 'write "/orders"'),
    Mistake("a path with a query", _route('path: ⟦"/orders?x=1", service: orders'), "no ?", "`query`"),
    Mistake("a path with two slashes", _route("path: ⟦/a//b, service: orders"), "empty segment", 'write "/a/b"'),
    Mistake("a path with dots", _route("path: ⟦/a/../b, service: orders"), "dot segment"),
    Mistake(
        "a path with an escaped letter",
        _route("path: ⟦/sp%61ce%20x, service: orders"),
        "escaped letter",
        '"/space%20x"',
    ),
    Mistake(
        "a star for a part of a segment",
        _route('path: ⟦"/files/*.jpg", service: orders'),
        "whole segment",
        '"/files/**"',
    ),
    Mistake("two stars before the end", _route('path: ⟦"/a/**/b", service: orders'), "comes last", '"*"'),
    Mistake("a parameter twice", _route("path: ⟦/a/:id/:id, service: orders"), 'the parameter "id" twice'),
    Mistake(
        "a parameter without a name", _route("path: ⟦'/a/:', service: orders"), "neither a literal nor a parameter"
    ),
    Mistake("a space in a path", _route("path: ⟦/a b, service: orders"), "cannot have", "%20"),
    Mistake("a host with a port", _route("path: /a, service: orders, hosts: [⟦'a.b:80']"), "no port", 'write "a.b"'),
    Mistake(
        "a host with a scheme",
        _route("path: /a, service: orders, hosts: [⟦'https://a.b/c']"),
        "expected a host",
        '"a.b"',
    ),
    Mistake(
        "a star inside a host",
        _route("path: /a, service: orders, hosts: [⟦'api.*.com']"),
        "at the beginning",
        '"*.example.com"',
    ),
    Mistake(
        "a host with an interface",
        _route("path: /a, service: orders, hosts: [⟦'[fe80::1%eth0]']"),
        "names no interface",
        'write "[fe80::1]"',
    ),
    Mistake("a host that is none", _route("path: /a, service: orders, hosts: [⟦a b]"), "not a host name"),
    Mistake(
        "a host in letters of another script",
        _route("path: /a, service: orders, hosts: [⟦bücher.de]"),
        "ASCII",
        "xn--bcher-kva.de",
    ),
    Mistake("a misspelt method", _route("path: /a, service: orders, methods: [⟦GTE]"), "not an HTTP method", '"GET"'),
    Mistake(
        "a method in small letters",
        _route("path: /a, service: orders, methods: [⟦post]"),
        "not an HTTP method",
        '"POST"',
    ),
    Mistake("a method twice", _route("path: /a, service: orders, ⟦methods: [GET, GET]"), '"GET" is there twice'),
    Mistake("an endpoint without a port", "services: {a: {endpoints: [⟦a]}}\n", "needs a port", 'write "a:80"'),
    Mistake("an endpoint with a path", "services: {a: {endpoints: [⟦'http://a:1/v1']}}\n", "has no path", "http://a:1"),
    Mistake(
        "an endpoint with a scheme of its own",
        "services: {a: {endpoints: [⟦'grpc://a:1']}}\n",
        'no scheme "grpc"',
        "protocol",
    ),
    Mistake(
        "a socket's path that is too long in bytes",
        f"services: {{a: {{endpoints: [⟦'unix:/{'é' * 54}']}}}}\n",
        "at most 107 bytes, found 109",
        "not ASCII",
    ),
    Mistake(
        "a socket's path with a zero in it",
        'services: {a: {endpoints: [⟦"unix:/a\\0b"]}}\n',
        "not an absolute socket path",
    ),
    Mistake(
        "a link-local endpoint",
        "services: {a: {endpoints: [⟦'[fe80::1]:80']}}\n",
        "every interface may have it",
        '"fe80::1%eth0"',
    ),
    Mistake("an endpoint with a port too high", "services: {a: {endpoints: [⟦'a:70000']}}\n", "from 1 to 65535"),
    Mistake("a service's name with a space", 'services: {⟦"a b": {endpoints: ["a:1"]}}\n', "is not a name", '"a-b"'),
    Mistake(
        "a header's name with a space",
        _route('path: /a, service: orders, request_headers: {set: {⟦"x y": z}}'),
        "not a header name",
    ),
    Mistake(
        "a header's value with a line break",
        _route('path: /a, service: orders, request_headers: {set: {x-a: ⟦"a\\nb"}}'),
        "one line",
    ),
    Mistake(
        "a header twice in two cases",
        _route("path: /a, service: orders, request_headers: {⟦set: {X-A: a, x-a: b}}"),
        "the same header",
    ),
    Mistake("a look-ahead", _route('path: /a, service: orders, headers: {x-a: {regex: ⟦"(?=a)"}}'), "RE2"),
    Mistake(
        "a broken expression",
        _route('path: /a, service: orders, headers: {x-a: {regex: ⟦"("}}'),
        "not a regular expression",
    ),
    Mistake(
        "an expression that looks back",
        _route('path: /a, service: orders, headers: {x-a: {regex: ⟦"(?P<n>a)(?P=n)"}}'),
        "not a regular expression of RE2",
        "neither around nor back",
    ),
    Mistake(
        "an expression with an escape of another dialect",
        _route(r"path: /a, service: orders, query: {a: {regex: ⟦'\u0041'}}"),
        "invalid escape sequence",
        r"write \x{41}",
    ),
    Mistake(
        "an empty expression",
        _route('path: /a, service: orders, headers: {x-a: {regex: ⟦""}}'),
        "an empty regular expression",
    ),
    Mistake(
        "an expression that is too large",
        _route('path: /a, service: orders, rewrite: {regex: {match: ⟦".{999}.{999}.{999}", replace: b}}'),
        "is too large",
        "repeat less",
    ),
    Mistake(
        "a rewrite that uses too many parameters",
        _route(
            'path: /:a/:b/:c/:d/:e/:f/:g/:h/:i/:j, service: orders, rewrite: {path: "/{a}{b}{c}{d}{e}{f}{g}{h}{i}{j}"}'
        ).replace("- {", "- ⟦{"),
        "uses 10 parts of the path",
    ),
    *(
        Mistake(f"a rewrite {how}", _route(f"path: /a, service: orders, rewrite: {rewrite}"), what, "write")
        for how, rewrite, what in (
            ("to a line break", r'{regex: {match: a, replace: ⟦"a\nb"}}', "that a path cannot have"),
            ("to a space", '{regex: {match: a, replace: ⟦"a b"}}', "that a path cannot have"),
            ("to a zero", r'{path: ⟦"/a\0b"}', "is not a path"),
            ("to a control character", r'{path: ⟦"/a\x7f"}', "is not a path"),
        )
    ),
    *(
        Mistake(
            f"a rewrite with {what}",
            _route(f"path: /a, service: orders, rewrite: {{⟦regex: {{match: '/(a)', replace: '{replace}'}}}}"),
            f'`replace` has "{found}", and `match` has 1 group',
            "the first group",
        )
        for what, replace, found in (
            ("a group that is not there", r"/\2", r"\2"),
            ("a letter for a group", r"/\a", r"\a"),
            ("half a backslash", r"/\\\1\\"[:-1], "\\"),
        )
    ),
    Mistake("a port too high", _gateway("listeners: [⟦70000]"), "from 1 to 65535"),
    Mistake(
        "a name for an interface",
        _gateway("listeners: [{port: 80, address: ⟦localhost}]"),
        "not an IP address",
        '"0.0.0.0"',
    ),
    *(
        Mistake(
            f"an interface that is {what}", _gateway(f"listeners: [{{port: 80, address: ⟦'{address}'}}]"), message, hint
        )
        for what, address, message, hint in (
            ("not named", "fe80::1", "is link-local", '"fe80::1%eth0"'),
            ("named for an address that is everywhere", "fd00::1%eth0", "only a link-local address", 'write "fd00::1"'),
            ("none", "fe80::1%a b", '"a b" is not the name of an interface', "eth0"),
            ("of the other family", "::ffff:10.0.0.1", "is an IPv4 address", 'write "10.0.0.1"'),
            ("a group's", "ff02::1", "it is a group's", ""),
        )
    ),
]

CHOICES = [
    Mistake("a misspelt protocol", _service("protocol: ⟦htpp2"), "expected http1, http2, grpc or auto", '"http2"'),
    Mistake("a misspelt balancing", _service("load_balancing: ⟦round-robin"), "expected round_robin", '"round_robin"'),
    Mistake("a hash of nothing", _service("load_balancing: ⟦hash"), "`hash` and `by` go together", "by: ip"),
    Mistake(
        "a hash of a header without a name",
        _service("load_balancing: {policy: hash, by: ⟦header}"),
        "which header?",
        "header.<name>",
    ),
    Mistake("a retry of a 4xx", _service("retry: {on: [⟦404]}"), "only 5xx", "answer about the request"),
    Mistake(
        "a misspelt condition", _service("retry: {on: [⟦connect-failure]}"), "nothing to retry on", '"connect_failure"'
    ),
    Mistake("too many retries", _service("retry: {attempts: ⟦100}"), "at most 10, found 100"),
    Mistake("any method, misspelt", _service("retry: {methods: ⟦all}"), "expected any or a list"),
    Mistake("a misspelt auth", _route("path: /a, service: orders, auth: ⟦pulbic"), "not a mode", '"public"'),
    Mistake("a status that is none", _route("path: /a, redirect: {to: /b, code: ⟦300}"), "expected 301, 302"),
    Mistake("a health check of nothing", _service("⟦health_check: {interval: 5s}"), "exactly one of"),
    Mistake("a health check of two kinds", _service("⟦health_check: {path: /h, tcp: true}"), "exactly one of"),
    Mistake(
        "a health check that overlaps",
        _service("⟦health_check: {path: /h, interval: 1s, timeout: 2s}"),
        "overlap itself",
    ),
    Mistake(
        "a gRPC health check of HTTP/1",
        "services:\n  ⟦a: {endpoints: ['a:1'], health_check: {grpc: ''}}\n",
        "needs HTTP/2",
        "`protocol: grpc`",
    ),
    Mistake("half a certificate", _service("⟦tls: {certificate: a.pem}"), "go together"),
    Mistake("tls and http", "services:\n  ⟦a: {endpoints: ['http://a:1'], tls: {}}\n", "contradict"),
    Mistake("a route to nowhere", _route("path: /a").replace("- {", "- ⟦{"), "goes nowhere", "`service`"),
    Mistake(
        "a route to two places",
        _route("path: /a, service: orders, redirect: /b").replace("- {", "- ⟦{"),
        "more than one place",
    ),
    Mistake(
        "a rewrite in two ways",
        _route("path: '/a/**', service: orders, ⟦rewrite: {prefix: /b, path: /c}"),
        "more than one way",
    ),
    Mistake(
        "a rewrite with an unknown parameter",
        _route("path: '/a/:id', service: orders, rewrite: {path: '/b/{nr}'}").replace("- {", "- ⟦{"),
        "which the path",
        "id",
    ),
    *(
        Mistake(f"a redirect to {where}", _route(f'path: /a, redirect: ⟦"{where}"'), "is nowhere to go", "https://host")
        for where in ("https://a:abc/x", "https://a:/x", "https://[::1/x", "https://:80/x", "https://::1/x", "/a\\0b")
    ),
    *(
        Mistake(f"a redirect to port {port}", _route(f'path: /a, redirect: ⟦"https://a:{port}/x"'), "no port", "65535")
        for port in (0, 65536, 99999)
    ),
    Mistake("a host that is set", _route("path: /a, service: orders, ⟦request_headers: {set: {Host: b}}"), '"host"'),
    Mistake("a response with a host", _gateway("⟦response_headers: {remove: [host]}"), '"host"', "a response has none"),
    Mistake(
        "an answer with a host", _route("path: /a, ⟦respond: {headers: {Host: b}}"), 'no header "host"', "leave it out"
    ),
    Mistake("too long a silence", _service("⟦connections: {keep_alive: 10h}"), "no system waits 10h", "at most 9h"),
    Mistake("a redirect to itself", _route("path: /a, ⟦redirect: {code: 301}"), "somewhere else"),
    Mistake(
        "a time-out without a service",
        _route("path: /a, redirect: /b, timeout: 5s").replace("- {", "- ⟦{"),
        "`timeout` needs a service",
    ),
    Mistake(
        "two conditions in one",
        _route("path: /a, service: orders, headers: {⟦x-a: {exact: a, prefix: b}}"),
        "exactly one of",
    ),
    Mistake("nothing to limit by", "limits: {a: {rate: 5/min, by: ⟦usr}}\n", "nothing to limit by", '"user"'),
    Mistake("two listeners on one port", "⟦gateway:\n  listeners: [8080, 8080]\n", "two listeners"),
]


def _issuer(fields: str, name: str = "main") -> str:
    return f"identity: {{issuers: {{{name}: {{issuer: x, audiences: [a], {fields}}}}}}}\n"


_HASH = "hash: 'hmac-sha256:" + "0" * 64 + "'"

IDENTITY = [
    *(
        Mistake(f"a header of the gateway's own {what}", text, "header of the gateway's own", "x-user-id")
        for what, text in (
            ("with an underscore", "identity: {headers: {⟦x_user: sub}}\n"),
            ("for keys", "identity: {api_keys: {pepper: p, header: ⟦x_key}}\n"),
            ("for proofs", f"identity: {{proof: {{secret: {'s' * 40}, header: ⟦x.proof}}}}\n"),
            ("that is too long", f"identity: {{headers: {{⟦{'x' * 65}: sub}}}}\n"),
        )
    ),
    Mistake(
        "an audience that is too long", _issuer(f"secret: {'s' * 40}").replace("[a]", f"[⟦{'a' * 201}]"), "at most 200"
    ),
    Mistake("keys fetched too seldom", _issuer("jwks: 'https://a/b', refresh: ⟦2d"), "at most 1d, found 2d"),
    Mistake("keys that count for too long", _issuer("jwks: 'https://a/b', max_stale: ⟦8d"), "at most 7d, found 8d"),
    Mistake("a URL of keys that is too long", _issuer(f"jwks: ⟦'https://a/{'x' * 2000}'"), "at most 2000 characters"),
    Mistake(
        "two issuers with one name in tokens",
        "⟦identity: {issuers: {a: {issuer: x, audiences: [a], jwks: b}, b: {issuer: x, audiences: [a], jwks: b}}}\n",
        '"a" and "b" are the same',
        "keep one",
    ),
    Mistake("a realm in letters of another script", "identity: {basic: {realm: ⟦é, users: {}}}\n", "match pattern"),
    Mistake("a user with a comma", "identity: {basic: {users: {⟦'a,b': {hash: x}}}}\n", "match pattern", only=False),
    Mistake("the secret of a proof that is short", "identity: {⟦proof: {secret: short}}\n", "at least 32 bytes"),
    Mistake(
        "a Redis that is none", "identity: {revocation: {redis: ⟦'http://a'}}\n", "not the URL of a Redis", "redis://"
    ),
    Mistake(
        "a Redis without a port", "identity: {revocation: {redis: ⟦'redis://a:99999'}}\n", "not the URL of a Redis"
    ),
    Mistake("an id of a key", f"api_keys: {{⟦A-b: {{client: c, {_HASH}}}}}\n", "not the id of an API key", "keys new"),
    Mistake("a gateway's name that is too long", _gateway(f"name: ⟦{'a' * 101}"), "at most 100 characters"),
    Mistake(
        "a key that is too long", f"limits: {{a: {{rate: 5/min, by: ⟦query.{'x' * 195}}}}}\n", "at most 200 characters"
    ),
]

REFERENCES = [
    Mistake("an unknown service", _route("path: /a, auth: public, service: ⟦ordes"), "ordes", '"orders"'),
    Mistake(
        "two routes that no request can tell apart",
        _route("path: '/a/:id', auth: public, service: orders")
        + "  - {path: ⟦'/a/:nr', auth: public, service: orders}\n",
        "/a/",
    ),
    Mistake("an unknown limit", _route("path: /a, auth: public, service: orders, limits: [⟦x]"), "x"),
]

MISTAKES = [*YAML, *VARIABLES, *KEYS, *TYPES, *SCALARS, *TEXTS, *CHOICES, *IDENTITY, *REFERENCES]
