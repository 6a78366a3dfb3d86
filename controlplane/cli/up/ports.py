"""Ports that another program holds, found before anything starts.

Envoy shares a port with another Envoy of the same user (SO_REUSEPORT), so that half of the requests would go elsewhere
without a word: the ports are tried here without that option.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from serving.address import TcpAddress


class PortTakenError(Exception):
    """A listener's port is held by another program."""


def refuse_taken_ports(addresses: Iterable[TcpAddress]) -> None:
    """Raises PortTakenError naming every address that cannot be had, and the fix."""
    problems = [problem for address in addresses if (problem := why_taken(address))]
    if problems:
        raise PortTakenError("; ".join(problems))


def why_taken(address: TcpAddress) -> str | None:
    """Why `address` cannot be listened on, or None."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as failure:
            match failure.errno:
                case errno.EADDRINUSE:
                    fix = "stop that program, or change the port under gateway.listeners"
                    return f"port {address.port} ({address}) is in use by another program: {fix}"
                case errno.EACCES:
                    fix = "choose one above 1023 under gateway.listeners"
                    return f"port {address.port} ({address}) needs more rights than this user has: {fix}"
                case _:
                    return f"{address} cannot be listened on: {failure.strerror}"
    return None
