"""Issuers' keys: loaded from the document, or fetched and kept fresh in the background.

A request never waits for a fetch. Keys are fetched ahead of time, with jitter and backoff; a token with an unknown key
id only asks for an earlier fetch, at most one per interval, and an id that was looked for in vain is not looked for
again for a while. When an issuer is away, the keys it last published count until the hard limit; they are on disk, so
that a restart during an outage changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp
import structlog

from extauthz.core.jwk import MAX_SET_BYTES, KeyRefused, KeySet, load_key_set, pem_key, secret_key
from extauthz.policy import InlineKeys, Issuer, Policy, PublicKey, RemoteKeys, SharedSecret

MAX_REDIRECTS: Final = 3
MAX_NEGATIVE: Final = 256
NEGATIVE_S: Final = 300.0
SHORTEST_REFRESH_S: Final = 1.0
_JITTER: Final = 0.1
_BACKOFF: Final = (1.0, 60.0)

_log = structlog.get_logger("extauthz.jwks")

Fetch = Callable[[RemoteKeys], Awaitable[bytes]]
"""The body at a source's URL. Raises FetchError."""
Changed = Callable[[str, KeySet | None], None]
"""Hears an issuer's keys whenever they change; None when they are too old to count."""


class FetchError(Exception):
    """The keys could not be fetched; the text says why."""


def static_keys(issuer: Issuer) -> KeySet | None:
    """The keys that stand in the document; None where they have to be fetched. Raises KeyRefused."""
    match issuer.keys:
        case SharedSecret(secret=secret):
            return secret_key(secret.reveal(), algorithms=issuer.algorithms)
        case PublicKey(pem=pem):
            return pem_key(pem, algorithms=issuer.algorithms)
        case InlineKeys(jwks=jwks):
            return load_key_set(jwks.reveal(), algorithms=issuer.algorithms)
        case RemoteKeys():
            return None


class HttpFetcher:
    """Fetches over HTTP within limits: time, size, redirects to the same origin only, status 200 only."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __call__(self, source: RemoteKeys) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "causeway-extauthz", "Accept": "application/jwk-set+json, application/json"},
            )
        url = source.url
        try:
            async with asyncio.timeout(source.timeout_s):
                for _ in range(MAX_REDIRECTS + 1):
                    async with self._session.get(url, allow_redirects=False) as response:
                        if response.status in (301, 302, 303, 307, 308):
                            url = _same_origin(url, response.headers.get("Location", ""))
                            continue
                        if response.status != 200:
                            raise FetchError(f"status {response.status}")
                        return await _limited(response)
        except TimeoutError:
            raise FetchError(f"no answer within {source.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(f"{type(error).__name__}: {error}") from error
        raise FetchError("too many redirects")


def _same_origin(url: str, location: str) -> str:
    target = urljoin(url, location)
    if urlsplit(target)[:2] != urlsplit(url)[:2]:
        raise FetchError("redirected to another host")
    return target


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(16_384):
        body += chunk
        if len(body) > MAX_SET_BYTES:
            raise FetchError(f"more than {MAX_SET_BYTES} bytes")
    return bytes(body)


@dataclass(frozen=True, slots=True)
class _Fetched:
    body: bytes
    at: float
    """Seconds since the epoch."""


class RemoteKeySource:
    """One issuer's published keys. `run` keeps them fresh until it is cancelled.

    `clock` is monotonic seconds, `wall` seconds since the epoch, `share` a random number from 0 to 1.
    """

    def __init__(
        self,
        name: str,
        issuer: Issuer,
        source: RemoteKeys,
        changed: Changed,
        *,
        fetch: Fetch,
        snapshot: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        share: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.issuer = issuer
        self.keys: KeySet | None = None
        self.fetches = 0
        self.problem = "not fetched yet"
        self._source = source
        self._changed = changed
        self._fetch = fetch
        self._snapshot = snapshot
        self._clock, self._wall, self._share = clock, wall, share
        self._fetched_at: float | None = None
        self._last_attempt = float("-inf")
        self._failures = 0
        self._wanted = asyncio.Event()
        self._negative: OrderedDict[str, float] = OrderedDict()

    @property
    def age_s(self) -> float | None:
        """Seconds since the last successful fetch; None before the first."""
        return None if self._fetched_at is None else self._wall() - self._fetched_at

    def unknown_kid(self, kid: str | None) -> None:
        """A token named a key that is not there. Asks for a fetch, unless the id was looked for lately; never waits."""
        if kid is None or self._wanted.is_set():
            return
        now = self._clock()
        if self._negative.get(kid, float("-inf")) > now:
            return
        self._negative[kid] = now + NEGATIVE_S
        while len(self._negative) > MAX_NEGATIVE:
            self._negative.popitem(last=False)
        self._wanted.set()

    def restore(self) -> None:
        """Takes the keys kept on disk, if they are of this source and still count."""
        if self._snapshot is None:
            return
        try:
            kept = json.loads(self._snapshot.read_text(encoding="utf-8"))
            fetched = _Fetched(str(kept["jwks"]).encode(), float(kept["fetched_at"]))
            if kept["url"] != self._source.url or self._wall() - fetched.at > self._source.max_stale_s:
                return
            self._take(fetched)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("kept keys are not usable", issuer=self.name, error=str(error))

    async def run(self) -> None:
        """Fetches now, then again before the keys grow old, or earlier when an unknown key id asks for it."""
        while True:
            await self._attempt()
            await self._rest()

    async def _attempt(self) -> None:
        self._last_attempt = self._clock()
        self._wanted.clear()
        self.fetches += 1
        try:
            fetched = _Fetched(await self._fetch(self._source), self._wall())
            self._take(fetched)
        except (FetchError, KeyRefused) as error:
            self._failures += 1
            self.problem = str(error)
            if self._failures in (1, 10) or self._failures % 100 == 0:
                _log.warning("keys not fetched", issuer=self.name, error=self.problem, failures=self._failures)
        else:
            self._failures = 0
            self.problem = ""
            await asyncio.to_thread(self._keep, fetched)
        self._expire()

    async def _rest(self) -> None:
        """Waits for the next fetch to be due. What asks earlier waits for the interval between fetches."""
        due = self._clock() + self._pause_s()
        while (left := due - self._clock()) > 0:
            if self._wanted.is_set():
                earliest = self._last_attempt + self._source.unknown_kid_interval_s
                await asyncio.sleep(max(0.0, min(due, earliest) - self._clock()))
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._until_stale_s())):
                    await self._wanted.wait()
            self._expire()

    def _pause_s(self) -> float:
        if self._failures:
            first, most = _BACKOFF
            pause = min(most, first * 2.0 ** min(self._failures - 1, 16), float(self._source.refresh_s))
        else:
            pause = float(self._source.refresh_s)
        return max(SHORTEST_REFRESH_S, pause * (1 - _JITTER + 2 * _JITTER * self._share()))

    def _until_stale_s(self) -> float:
        if self._fetched_at is None or self.keys is None:
            return float(self._source.max_stale_s)
        return max(0.05, self._fetched_at + self._source.max_stale_s - self._wall())

    def _take(self, fetched: _Fetched) -> None:
        keys = load_key_set(fetched.body, algorithms=self.issuer.algorithms, symmetric=False)
        self._fetched_at = fetched.at
        if keys != self.keys:
            if self.keys is not None:
                _log.info("keys changed", issuer=self.name, ids=[key.kid for key in keys.keys])
            self.keys = keys
            self._negative.clear()
            self._changed(self.name, keys)

    def _expire(self) -> None:
        age = self.age_s
        if self.keys is not None and age is not None and age > self._source.max_stale_s:
            _log.error("keys too old to count", issuer=self.name, age_s=round(age))
            self.keys = None
            self._changed(self.name, None)

    def _keep(self, fetched: _Fetched) -> None:
        if self._snapshot is None:
            return
        content = {"url": self._source.url, "fetched_at": fetched.at, "jwks": fetched.body.decode("utf-8", "replace")}
        try:
            write_private(self._snapshot, json.dumps(content))
        except OSError as error:
            _log.warning("keys not kept on disk", issuer=self.name, error=str(error))


class KeyRing:
    """The keys of every issuer of a document. A source that an edit leaves alone keeps its keys and its schedule."""

    def __init__(self, changed: Changed, *, fetch: Fetch, folder: Path | None = None) -> None:
        self._changed = changed
        self._fetch = fetch
        self._folder = folder
        self._static: dict[str, KeySet] = {}
        self._remote: dict[str, RemoteKeySource] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def sources(self) -> tuple[RemoteKeySource, ...]:
        return tuple(self._remote.values())

    def of(self, name: str) -> KeySet | None:
        """The keys that count for an issuer now."""
        remote = self._remote.get(name)
        return remote.keys if remote is not None else self._static.get(name)

    def unknown_kid(self, issuer: str, kid: str | None) -> None:
        if (source := self._remote.get(issuer)) is not None:
            source.unknown_kid(kid)

    def follow(self, policy: Policy, static: dict[str, KeySet]) -> None:
        """Follows a document's issuers from now on; needs a running loop. `static` is from `static_key_sets`."""
        self._static = static
        wanted = {name: one for name, one in policy.issuers.items() if isinstance(one.keys, RemoteKeys)}
        for name in [name for name, source in self._remote.items() if wanted.get(name) != source.issuer]:
            self._tasks.pop(name).cancel()
            del self._remote[name]
        for name, issuer in wanted.items():
            if name not in self._remote and isinstance(issuer.keys, RemoteKeys):
                snapshot = (
                    self._folder / f"jwks-{blake2b(name.encode(), digest_size=8).hexdigest()}.json"
                    if self._folder is not None
                    else None
                )
                source = RemoteKeySource(name, issuer, issuer.keys, self._changed, fetch=self._fetch, snapshot=snapshot)
                source.restore()
                self._remote[name] = source
                self._tasks[name] = asyncio.create_task(source.run(), name=f"jwks {name}")

    def problem(self) -> str | None:
        """Why tokens of some issuer cannot be verified now, or None."""
        lacking = [f"{one.name}: {one.problem}" for one in self._remote.values() if one.keys is None]
        return "; ".join(lacking) or None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ends every fetch afterwards."""
        try:
            yield
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def static_key_sets(policy: Policy) -> dict[str, KeySet]:
    """The keys that stand in a document, by issuer. Raises ValueError naming the field."""
    found: dict[str, KeySet] = {}
    for name, issuer in policy.issuers.items():
        try:
            keys = static_keys(issuer)
        except KeyRefused as error:
            raise ValueError(f"issuers.{name}.keys: {error}") from error
        if keys is not None:
            found[name] = keys
    return found


def write_private(file: Path, text: str) -> None:
    """Replaces a file whole, readable by its owner only. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
