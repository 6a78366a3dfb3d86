"""The rate limit service in Go that others deploy, as a process: where its binary is, and how it is started.

It is never fetched or built here. `CAUSEWAY_REFERENCE_RATELIMIT` names a binary; else the one is taken that
`benchmarks/ratelimit.py` has built and kept.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.process import Process
from tests.support.redis import Redis
from tests.support.waiting import free_port

_KEPT = Path.home() / ".cache" / "causeway"


def reference_binary() -> Path | None:
    """None where there is none."""
    named = os.environ.get("CAUSEWAY_REFERENCE_RATELIMIT")
    if named:
        return Path(named)
    return next(iter(sorted(_KEPT.glob("reference-ratelimit-*"))), None)


class ReferenceRatelimit:
    """The service on a Redis, with its limits from the control plane on a port."""

    def __init__(self, binary: Path, *, folder: Path, redis: Redis, xds: int):
        self.port = free_port()
        env = {
            "USE_STATSD": "false",
            "LOG_LEVEL": "warn",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": f"127.0.0.1:{redis.port}",
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_NODE_ID": "reference",
            "CONFIG_GRPC_XDS_SERVER_URL": f"127.0.0.1:{xds}",
            "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "100ms",
            "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "300ms",
            "HOST": "127.0.0.1",
            "GRPC_HOST": "127.0.0.1",
            "DEBUG_HOST": "127.0.0.1",
            "GRPC_PORT": str(self.port),
            "PORT": str(free_port()),
            "DEBUG_PORT": str(free_port()),
        }
        self.process = Process("reference-ratelimit", [binary], folder=folder, env=env)

    def start(self) -> ReferenceRatelimit:
        self.process.start()
        return self

    def stop(self) -> None:
        self.process.stop()
