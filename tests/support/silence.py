"""A name server that never answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_name_server() -> Iterator[int]:
    """Its UDP port on 127.0.0.1: whoever asks there is left without an answer, not even that nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        yield silent.getsockname()[1]
