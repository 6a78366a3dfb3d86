"""From a URL to a Redis client: one Redis, Sentinel or Cluster, with TLS and authentication.

    redis://[user:password@]host:6379/0            rediss:// for TLS, unix:///path
    redis+sentinel://[user:password@]host1:26379,host2:26379/<service>[/<db>]      rediss+sentinel://
    redis+cluster://[user:password@]host1:7000,host2:7001                          rediss+cluster://

In the query: `ca`, `cert`, `key` (files, for TLS), `sentinel_password`. The whole URL is a
secret: it is never logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from ratelimit.store.redis import CLUSTER_TAGS, Commands

CONNECT_S = 1.0
Option = str | float | bool | Retry | None


@dataclass(frozen=True, slots=True)
class Connected:
    """A client, and how many hash tags its counters are spread over."""

    client: Commands
    tags: int
    kind: Literal["single", "sentinel", "cluster"]


def connect(url: str) -> Connected:
    """The client for `url`, which connects when it is first used. Raises ValueError, which never shows a secret."""
    parsed = urlsplit(url)
    scheme, _, kind = parsed.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster"):
        raise ValueError(
            f'"{parsed.scheme}" is no way to reach Redis: redis, rediss, unix, redis+sentinel, redis+cluster'
        )
    options = _options(parsed, scheme)
    match kind:
        case "sentinel":
            return Connected(_sentinel(parsed, options), 1, "sentinel")
        case "cluster":
            nodes = [ClusterNode(host, port) for host, port in _hosts(parsed, 6379)]
            return Connected(_client(RedisCluster, startup_nodes=nodes, **options), CLUSTER_TAGS, "cluster")
        case _:
            return Connected(_single(parsed, scheme, options), 1, "single")


def _single(parsed: SplitResult, scheme: str, options: Mapping[str, Option]) -> Commands:
    if scheme == "unix":
        return _client(Redis, unix_socket_path=parsed.path, **options)
    (host, port), *rest = _hosts(parsed, 6379)
    if rest:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return _client(Redis, host=host, port=port, db=_database(parsed.path.strip("/")), **options)


def _sentinel(parsed: SplitResult, options: Mapping[str, Option]) -> Commands:
    service, _, database = parsed.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL names the service: redis+sentinel://host:26379/mymaster")
    password = parse_qs(parsed.query).get("sentinel_password", [None])[0]
    of_sentinels = {"password": password, "socket_connect_timeout": CONNECT_S, "socket_timeout": CONNECT_S}
    made: Callable[..., object] = Sentinel
    pooled: Callable[..., object] = SentinelConnectionPool
    pool = pooled(
        service,
        made(_hosts(parsed, 26379), sentinel_kwargs=of_sentinels),
        is_master=True,
        check_connection=False,
        connection_class=SentinelManagedSSLConnection if options.get("ssl") else SentinelManagedConnection,
        db=_database(database),
        **{name: value for name, value in options.items() if name != "ssl"},
    )
    return _client(Redis.from_pool, connection_pool=pool)


def _client(kind: Callable[..., object], **options: object) -> Commands:
    """A client of one of redis-py's kinds. It tries nothing twice by itself: a take must not be counted twice."""
    client = kind(**options)
    if not isinstance(client, Commands):
        raise TypeError(f"{type(client).__name__} is no Redis client")
    return client


def _options(parsed: SplitResult, scheme: str) -> dict[str, Option]:
    query = parse_qs(parsed.query)
    unknown = set(query) - {"ca", "cert", "key", "sentinel_password"}
    if unknown:
        raise ValueError(f"unknown in the Redis URL: {', '.join(sorted(unknown))}")
    options: dict[str, Option] = {
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "username": unquote(parsed.username) if parsed.username else None,
        "password": unquote(parsed.password) if parsed.password else None,
    }
    if scheme == "rediss":
        options |= {"ssl": True, "ssl_check_hostname": True}
        names = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
        options |= {option: query[name][0] for name, option in names.items() if name in query}
    return options


def _hosts(parsed: SplitResult, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for each in parsed.netloc.rpartition("@")[2].split(","):
        host, colon, port = each.rpartition(":") if each.rpartition("]")[2] else (each, "", "")
        if not colon:
            host, port = each, str(default_port)
        if not port.isdecimal() or not host:
            raise ValueError(f'"{each}" is no host and port')
        hosts.append((host.strip("[]"), int(port)))
    return hosts


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f'"{text}" is no database number')
    return int(text or 0)
