"""serving.address: every form a person may write, and every one that must be refused with a reason."""

import pytest

from serving.address import SUN_PATH_BYTES, parse_address


@pytest.mark.parametrize(
    ("text", "target", "is_loopback", "is_unix"),
    [
        pytest.param("127.0.0.1:80", "127.0.0.1:80", True, False, id="an IPv4 loopback address"),
        pytest.param("127.8.8.8:80", "127.8.8.8:80", True, False, id="all of 127/8 is loopback"),
        pytest.param("localhost:0", "localhost:0", True, False, id="localhost, any free port"),
        pytest.param("[::1]:80", "[::1]:80", True, False, id="IPv6 keeps its brackets"),
        pytest.param("0.0.0.0:80", "0.0.0.0:80", False, False, id="every interface is not loopback"),
        pytest.param("[::]:80", "[::]:80", False, False, id="every IPv6 interface is not loopback"),
        pytest.param("control-plane:18000", "control-plane:18000", False, False, id="a name is not loopback"),
        pytest.param("localhost.example.com:1", "localhost.example.com:1", False, False, id="a name like localhost"),
        pytest.param("unix:/run/x.sock", "unix:/run/x.sock", True, True, id="a Unix socket"),
        pytest.param("unix:///run/x.sock", "unix:/run/x.sock", True, True, id="a Unix socket as a URL"),
    ],
)
def test_an_address_is_understood(text: str, target: str, is_loopback: bool, is_unix: bool) -> None:
    address = parse_address(text)
    assert (address.target, address.is_loopback, address.is_unix) == (target, is_loopback, is_unix)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "expected host:port", id="nothing"),
        pytest.param("localhost", "expected host:port", id="no port"),
        pytest.param(":80", "expected host:port", id="no host"),
        pytest.param("a:65536", "not a port", id="one above the last port"),
        pytest.param("a:-1", "not a port", id="a negative port"),
        pytest.param("a:\u0661", "not a port", id="digits of another script"),
        pytest.param("::1:80", "brackets", id="IPv6 without brackets"),
        pytest.param("[]:80", "not a host", id="empty brackets"),
        pytest.param("http://a:80", "brackets", id="a URL"),
        pytest.param("a b:80", "not a host", id="a space in the host"),
        pytest.param("unix:x.sock", "absolute", id="a relative socket path"),
        pytest.param("unix:/" + "x" * SUN_PATH_BYTES, "at most 107", id="a socket path one byte too long"),
    ],
)
def test_a_wrong_address_says_what_would_be_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_address(text)


def test_the_longest_socket_path_is_accepted() -> None:
    path = "/" + "x" * (SUN_PATH_BYTES - 1)
    assert parse_address("unix:" + path).target == "unix:" + path
