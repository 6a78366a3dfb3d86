"""What has been revoked, and whether an identity is.

A revocation names a token, a subject, a tenant, an API key, or everybody, and counts for what was issued until it was
made. A credential without a time of issue (an API key, a password, a certificate) is refused for as long as the
revocation stands. The index holds what may still matter and nothing that has run out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeGuard, get_args

from extauthz.core.identity import Identity
from extauthz.core.strict import json_object

Kind = Literal["token", "subject", "tenant", "api_key", "all"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
MAX_ENTRIES: Final = 200_000
MAX_VALUE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What was issued at `before` or earlier is refused until `until`, both in seconds since the epoch. A token that is
    named itself is refused whenever it was issued. With `lifted` it takes an earlier revocation back.
    """

    kind: Kind
    value: str = ""
    before: int
    until: int
    lifted: bool = False

    def dump(self) -> str:
        members = {"kind": self.kind, "value": self.value, "before": self.before, "until": self.until}
        return json.dumps(members | ({"lifted": True} if self.lifted else {}), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | bytes) -> Revocation:
        """Raises ValueError, which says what is wrong."""
        members = json_object(text.encode() if isinstance(text, str) else text)
        kind, value = members.get("kind"), members.get("value", "")
        before, until, lifted = members.get("before"), members.get("until"), members.get("lifted", False)
        if not _is_kind(kind):
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}")
        if not isinstance(value, str) or len(value) > MAX_VALUE or (kind == "all") != (value == ""):
            raise ValueError(f"value: expected text of 1 to {MAX_VALUE} characters, and none for all")
        if type(before) is not int or type(until) is not int or not isinstance(lifted, bool):
            raise ValueError("before and until: expected seconds")
        return cls(kind=kind, value=value, before=before, until=until, lifted=lifted)


def _is_kind(kind: object) -> TypeGuard[Kind]:
    return kind in KINDS


class Revocations:
    """The index. `epoch` grows with every change: who has asked in this epoch need not ask again."""

    __slots__ = ("_entries", "epoch")

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Revocation] = {}
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self._entries.values())

    def add(self, revocations: Iterable[Revocation], now: float) -> None:
        """Takes revocations in, in the order they were made. Raises OverflowError beyond `MAX_ENTRIES`: a revocation
        that is silently forgotten would be worse than a loud refusal."""
        for one in revocations:
            place = (one.kind, one.value)
            if one.lifted:
                self._entries.pop(place, None)
            elif one.until > now:
                known = self._entries.get(place)
                if known is None and len(self._entries) >= MAX_ENTRIES:
                    self.expire(now)
                    if len(self._entries) >= MAX_ENTRIES:
                        raise OverflowError(f"more than {MAX_ENTRIES} revocations")
                self._entries[place] = _later(known, one)
            self.epoch += 1

    def expire(self, now: float) -> None:
        """Forgets what has run out."""
        for place in [place for place, one in self._entries.items() if one.until <= now]:
            del self._entries[place]

    def revoked(self, identity: Identity, now: float) -> bool:
        """Whether a revocation stands against the identity."""
        entries = self._entries
        if not entries:
            return False
        places = (
            ("all", ""),
            ("token", identity.token_id),
            ("subject", identity.user),
            ("tenant", identity.tenant),
            ("api_key", identity.api_key),
        )
        for kind, value in places:
            if value is None:
                continue
            one = entries.get((kind, value))
            if one is None or one.until <= now:
                continue
            if kind == "token" or identity.issued_at is None or identity.issued_at <= one.before:
                return True
        return False


def _later(known: Revocation | None, new: Revocation) -> Revocation:
    """Two revocations of one thing: neither takes anything from the other."""
    if known is None:
        return new
    return Revocation(
        kind=new.kind, value=new.value, before=max(known.before, new.before), until=max(known.until, new.until)
    )
