"""A connection to the control plane's admin API, for verbs that ask or tell it something."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException

import typer

from serving.address import Address, TcpAddress, UnixAddress, parse_address

Json = dict[str, object]


class Unreachable(Exception):  # noqa: N818  # reads as the sentence it is raised with
    """The control plane does not answer; the text says where it was looked for and why."""


class Unanswered(Unreachable):
    """It is there, and has not answered in time."""


def admin_address(text: str) -> Address:
    """What `--admin` says. Raises typer.BadParameter when that is none."""
    try:
        return parse_address(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--admin") from None


class ControlConnection:
    """Requests to the admin server at `address`, each on a connection of its own."""

    def __init__(self, address: Address, *, timeout_s: float = 10.0) -> None:
        self._address = address
        self._timeout_s = timeout_s

    def allow(self, more_s: float) -> None:
        """The answer may take so much longer."""
        self._timeout_s += more_s

    def get(self, path: str) -> Json:
        """The JSON that the path answers, whatever its status. Raises Unreachable, or Unanswered."""
        return self._ask("GET", path, None)

    def post(self, path: str, wish: Mapping[str, object]) -> Json:
        """As `get`, with a JSON body."""
        return self._ask("POST", path, json.dumps(wish))

    def _ask(self, method: str, path: str, body: str | None) -> Json:
        connection = _connection(self._address, self._timeout_s)
        is_there = False
        try:
            connection.connect()
            is_there = True
            connection.request(method, path, body=body, headers={"Content-Type": "application/json"} if body else {})
            answer = json.loads(connection.getresponse().read())
        except (OSError, HTTPException) as failure:
            if is_there and isinstance(failure, TimeoutError):
                late = f"the control plane at {self._address} has not answered within {self._timeout_s:g} s"
                raise Unanswered(late) from failure
            raise Unreachable(f"no control plane answers at {self._address}: {failure}") from failure
        except ValueError as failure:
            raise Unreachable(f"what answers at {self._address} is no control plane") from failure
        finally:
            connection.close()
        return answer if isinstance(answer, dict) else {"answer": answer}


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(address: Address, timeout_s: float) -> HTTPConnection:
    match address:
        case UnixAddress(path):
            return _UnixConnection(str(path), timeout_s)
        case TcpAddress(host, port):
            return HTTPConnection(host, port, timeout=timeout_s)
