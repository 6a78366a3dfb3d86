"""Finding what a client will not accept.

Envoy's reason often does not name the resource, and rejects the good ones of a response with the bad one. So what was
rejected together is offered again in halves until a single thing is left. `Suspects` does so for resources of a type,
`PartTrial` for the parts inside one resource. Never is the same content offered twice: each attempt is a smaller one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from controlplane.snapshot.resource import Part, Resource


class Suspects:
    """Groups of names still to be tried, one group at a time."""

    __slots__ = ("_groups", "_postponed", "is_overtaken")

    def __init__(self) -> None:
        self.is_overtaken = False
        """Something else is wanted since they were refused."""
        self._groups: deque[tuple[str, ...]] = deque()
        self._postponed: set[tuple[str, ...]] = set()

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def current(self) -> tuple[str, ...]:
        return self._groups[0]

    @property
    def names(self) -> frozenset[str]:
        """All that are still to be tried."""
        return frozenset(name for group in self._groups for name in group)

    def done(self) -> None:
        if self._groups:
            self._groups.popleft()

    def postpone(self) -> bool:
        """Tries the others before the present group; False when each of them was postponed: then it stays the one."""
        self._postponed.add(self._groups[0])
        if self._postponed.issuperset(self._groups):
            return False
        self._groups.rotate(-1)
        return True

    def rejected(self, names: Iterable[str], text: str) -> None:
        """These were rejected together: try each half, or first the ones the client speaks of."""
        names = tuple(names)
        if not self._groups:
            self.clear()
        named = tuple(name for name in names if _mentions(text, name))
        if 0 < len(named) < len(names):
            halves = (named, tuple(name for name in names if name not in named))
        else:
            middle = len(names) // 2
            halves = (names[:middle], names[middle:])
        self._groups.extendleft(reversed(halves))

    def clear(self) -> None:
        """Nobody is a suspect any more."""
        self._groups.clear()
        self._postponed.clear()
        self.is_overtaken = False


def _mentions(text: str, name: str) -> bool:
    # Most names are not there at all: an expression for each of thousands would stop everything for a second.
    return name in text and re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", text) is not None


@dataclass(slots=True)
class PartTrial:
    """One rejected resource: which of its parts is to blame.

    What waits to be tried stays as the client has it: in its accepted form, left out if the client never had it, or as
    its fallback if the client never had the resource at all. What is found guilty is given its accepted form, else its
    fallback: leaving a route out for good would hand its paths to a more general route with weaker rules.

    What stands in may be refused as well: a fallback repeats the match, and that may be what is wrong. So the client
    takes what stands in for the one found guilty before the next group is tried, and if it does not, the next stand-in
    has its turn. At last the part is left out: one part must not take the others with it.
    """

    target: Resource
    accepted: Resource | None
    text: str
    """The client's latest reason."""
    rejected: set[str] = field(default_factory=set)
    """Versions of the forms that were refused."""
    guilty: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    is_concluded: bool = False
    _old: dict[str, Part] = field(default_factory=dict)
    _waiting: deque[tuple[Part, ...]] = field(default_factory=deque)
    _trying: tuple[Part, ...] = ()
    _blamed: Part | None = None
    """Found guilty last: the client has not yet taken what stands in for it."""
    _stand_ins: deque[bytes] = field(default_factory=deque)
    """What is left to stand in for it."""
    _caution: int = 0
    """Which of the stand-ins waits with a client that never had the resource."""

    def __post_init__(self) -> None:
        self.rejected.add(self.target.version)
        if self.accepted is not None:
            self._old = {part.key: part for part in self.accepted.parts}
        changed = tuple(part for part in self.target.parts if not self._has(part))
        if len(changed) == 1:
            self._blame(changed[0])
        elif changed:
            middle = len(changed) // 2
            self._waiting.extend((changed[:middle], changed[middle:]))

    @property
    def is_possible(self) -> bool:
        return bool(self._waiting or self.guilty)

    @property
    def is_over(self) -> bool:
        """Every part is tried. What remains is for the client to take the form without the guilty ones."""
        return not self._waiting and not self._trying

    def form(self) -> Resource:
        """The resource as it may be offered now."""
        replaced = dict(self.guilty)
        for group in self._waiting:
            replaced |= {part.key: self._while_waiting(part) for part in group}
        return self.target.replacing(replaced) if replaced else self.target

    def accept(self) -> None:
        """The client has the form: what was tried in it is good. Try the next group."""
        self._blamed = None
        self._trying = self._waiting.popleft() if self._waiting else ()

    def reject(self) -> bool:
        """The client refuses the form. False when only the resource itself is left to blame."""
        if not self._trying:
            return self._stand_in() if self._blamed is not None else self._be_cautious()
        if len(self._trying) == 1:
            self._blame(self._trying[0])
            self._trying = ()
        else:
            middle = len(self._trying) // 2
            self._waiting.appendleft(self._trying[middle:])
            self._trying = self._trying[:middle]
        return True

    def guilty_parts(self) -> tuple[Part, ...]:
        return tuple(part for part in self.target.parts if part.key in self.guilty)

    def _blame(self, part: Part) -> None:
        self.texts[part.key] = self.text
        self._blamed = part
        waited = (self._while_waiting(part),)  # the client has taken that, or what it has in its place
        self._stand_ins = deque(dict.fromkeys(one for one in (*waited, part.fallback, part.last_resort) if one))
        self._stand_ins.append(b"")
        self._stand_in()

    def _stand_in(self) -> bool:
        """Puts the next one in place of the part found guilty last. False when none is left."""
        if self._blamed is None or not self._stand_ins:
            return False
        self.guilty[self._blamed.key] = self._stand_ins.popleft()
        return True

    def _be_cautious(self) -> bool:
        """What waits was refused: let it wait as something simpler. False when there is nothing simpler."""
        if self.accepted is not None or self._caution == 2:
            return False
        self._caution += 1
        return True

    def _while_waiting(self, part: Part) -> bytes:
        if self.accepted is None:
            return (part.fallback, part.last_resort or part.fallback, b"")[self._caution]
        return self._accepted_form(part)

    def _has(self, part: Part) -> bool:
        """Whether the client accepted it as it is."""
        old = self._old.get(part.key)
        return old is not None and old.body == part.body

    def _accepted_form(self, part: Part) -> bytes:
        """As the client accepted it last; nothing if it never did."""
        old = self._old.get(part.key)
        return old.kept if old is not None else b""
