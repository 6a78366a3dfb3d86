"""Paths, hosts, endpoints and the other kinds of text: what may be written and what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from controlplane.expression import program_size
from controlplane.manifests.models import text as kinds
from controlplane.manifests.models.endpoint import Endpoint


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/:id",
        "/a/{id}/b",
        "/a/*/b",
        "/**",
        "/a/**",
        "/a%20b",
        "/a-b_c.d~e",
        "/a:b",
        "/@x",
        "/a;b=c",
    ],
)
def test_is_a_path(path: str) -> None:
    assert kinds.path_pattern(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "/a?b",
        "/a#b",
        "/a b",
        "//",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a*",
        "/*.js",
        "/**/a",
        "/:",
        "/{}",
        "/{a",
        "/a{b}",
        "/:a/:a",
        "/:a/{a}",
        "/é",
        "/%zz",
        "/a\n",
        "/" + "a" * 1024,
    ],
)
def test_is_no_path(path: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"path|parameter|segment|\*"):
        kinds.path_pattern(path)


@pytest.mark.parametrize(
    ("host", "becomes"),
    [("a.b", "a.b"), ("A.B.", "a.b"), ("*", "*"), ("*.a.b", "*.a.b"), ("127.0.0.1", "127.0.0.1"), ("[::1]", "[::1]")],
)
def test_is_a_host(host: str, becomes: str) -> None:
    assert kinds.host_pattern(host) == becomes


@pytest.mark.parametrize(
    "host", ["", "a b", "a.*", "a*.b", "*.*.b", "http://a", "a/b", "a:80", "-a.b", "a..b", "é.de", "[::g]", "a" * 64]
)
def test_is_no_host(host: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"host|IPv6"):
        kinds.host_pattern(host)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("orders:3000", Endpoint("", "orders", 3000)),
        ("ORDERS:3000", Endpoint("", "orders", 3000)),
        ("127.0.0.1:1", Endpoint("", "127.0.0.1", 1)),
        ("[::1]:65535", Endpoint("", "::1", 65535)),
        ("http://orders", Endpoint("http", "orders", 80)),
        ("https://orders/", Endpoint("https", "orders", 443)),
        ("https://[::1]:8443", Endpoint("https", "::1", 8443)),
        ("unix:/run/x.sock", Endpoint("", "", 0, "/run/x.sock")),
    ],
)
def test_is_an_endpoint(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders",
        ":80",
        "orders:",
        "orders:0",
        "orders:65536",
        "orders:http",
        "::1:80",
        "http://",
        "http://a/b",
        "ftp://a:1",
        "a:1:2",
        "a b:1",
        "user@a:1",
        "unix:",
        "unix:relative",
        "unix:/" + "a" * 200,
    ],
)
def test_is_no_endpoint(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"endpoint|host|port|socket|IPv6"):
        Endpoint.parse(text)


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", " a", "a ", "é", "\x7f", "a" * 4097])
def test_is_no_header_value(value: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"header value"):
        kinds.header_value(value)


@pytest.mark.parametrize(
    ("network", "becomes"), [("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3", "10.1.2.3/32"), ("::1", "::1/128")]
)
def test_is_a_network(network: str, becomes: str) -> None:
    assert kinds.cidr(network) == becomes


@pytest.mark.parametrize("network", ["", "10.0.0.1/8", "10.0.0.0/33", "300.0.0.0/8", "a"])
def test_is_no_network(network: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"network|prefix"):
        kinds.cidr(network)


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", "(?>a)", "a++", r"a\Z", "a{1001}", "(", "[", "a" * 513],
)
def test_is_no_expression_for_re2(pattern: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"RE2|expression"):
        kinds.regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        (r"\u0041b", r"write \x{41}"),
        (r"\u20ac", "write the character itself"),
        ("(?P<n>a)(?P=n)", "neither around nor back"),
        (r"(a)\1", "neither around nor back"),
        ("(?<=a)b", "neither around nor back"),
        (r"a\Z", r"its end is $ or \z"),
        ("(x{1,32}){1,32}", "multiplied"),
        ("a++", "possessive"),
        ("", ".* is anything"),
        ("(.{999}){1}" * 3, "repeat less"),
    ],
)
def test_what_re2_has_not_comes_with_what_to_write(pattern: str, advice: str) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        kinds.regex(pattern)
    assert advice in (refused.value.context or {})["hint"]


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("[0-9a-f]{128}", 260), ("[0-9a-fA-F]{64}", 132), ("Bearer [A-Za-z0-9._-]{20,200}", 991), (".{400}", 804)],
)
def test_a_large_expression_is_taken(pattern: str, size: int) -> None:
    assert kinds.regex(pattern) == pattern
    assert program_size(pattern) == size


def test_too_large_an_expression_is_refused_with_its_size() -> None:
    assert kinds.regex("a{999}" * 4)
    with pytest.raises(PydanticCustomError, match="4004 steps"):
        kinds.regex("a{1000}" * 4)


@pytest.mark.parametrize(
    "pattern",
    [".*", r"\d+", "(?:a|b)", "(?P<x>a)", "(?i)a", r"\\1", r"\++", "a{900}", "[[]"],
)
def test_is_an_expression(pattern: str) -> None:
    assert kinds.regex(pattern) == pattern


@pytest.mark.parametrize("pattern", [r"\pL+", "[[:alpha:]]", r"\Qa.b\E", r"a\z", "(?<x>a)"])
def test_is_an_expression_of_re2_alone(pattern: str) -> None:
    assert kinds.regex(pattern) == pattern


@pytest.mark.parametrize(
    "check",
    [
        kinds.name,
        kinds.path_pattern,
        kinds.literal_path,
        kinds.request_target,
        kinds.host_pattern,
        kinds.method,
        kinds.header_name,
        kinds.header_value,
        kinds.regex,
        kinds.cidr,
        kinds.file_path,
        Endpoint.parse,
    ],
    ids=lambda check: getattr(check, "__qualname__", ""),
)
def test_whatever_is_written_is_read_or_refused_in_words(check: Callable[[str], object]) -> None:
    @given(st.text(max_size=40) | st.text(alphabet="/:*{}a.[]%?#-@1", max_size=20))
    def never_another_error(text: str) -> None:
        with suppress(PydanticCustomError):
            check(text)

    never_another_error()
