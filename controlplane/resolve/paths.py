"""Path patterns: what they match, which is more specific, and what they become in Envoy.

A pattern is a list of segments: literals, single wildcards (`*`, `:name`, `{name}`), and at the end perhaps the rest
(`**`, which stands for nothing, `/`, or anything below). A trailing slash means nothing, in patterns and in requests.

The order of two patterns is decided at the first segment in which they differ: a literal before a single wildcard,
a single wildcard before the rest; a path that ends here before one that goes on with the rest. It is a total order that
does not depend on where the patterns are written, and of two patterns that match the same request the earlier one is
the one a reader expects. `docs/routing.md` says the same in users' words.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

from controlplane.ir.route import ExactPath, PathMatch, PathPrefix, PathRegex

_PARAMETER = re.compile(r":([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class Literal:
    """A segment that must be exactly this."""

    text: str


@dataclass(frozen=True, slots=True)
class Single:
    """Any one segment. `name` is None for `*`."""

    name: str | None


Segment = Literal | Single


@dataclass(frozen=True)
class Pattern:
    """A parsed path pattern. `has_rest`: it ends in `**`."""

    segments: tuple[Segment, ...]
    has_rest: bool

    @cached_property
    def shape(self) -> str:
        """What it matches, whatever its parameters are called: equal for patterns no path can tell apart."""
        segments = "".join("/" + (s.text if isinstance(s, Literal) else "*") for s in self.segments)
        return segments + ("/**" if self.has_rest else "") or "/"

    @cached_property
    def order(self) -> tuple[tuple[int, str], ...]:
        """Sort key: the most specific first."""
        # A literal comes before any single wildcard, that before the end of the path, that before the rest. Among
        # patterns that can match the same path, the end only ever meets the rest.
        segments = tuple((0, s.text) if isinstance(s, Literal) else (1, "") for s in self.segments)
        return (*segments, (3, "") if self.has_rest else (2, ""))

    @cached_property
    def parameters(self) -> dict[str, int]:
        """The names of its parameters and the number of the segment each stands for, from 0."""
        return {s.name: i for i, s in enumerate(self.segments) if isinstance(s, Single) and s.name is not None}

    @cached_property
    def matcher(self) -> PathMatch:
        """The pattern in Envoy's words: a plain comparison where one will do."""
        if all(isinstance(s, Literal) for s in self.segments):
            path = self.shape.removesuffix("/**") or "/"
            return PathPrefix(path) if self.has_rest else ExactPath(path)
        prefix = self.shape.partition("*")[0].removeprefix("/")
        return PathRegex(self.regex() + ("(?:/.*)?" if self.has_rest else "/?"), "/" + prefix if prefix else "")

    def regex(self, *, captured: Collection[int] = ()) -> str:
        """RE2 for the segments alone, with a group for each wildcard whose number is among `captured`."""
        return "".join(
            "/" + (re.escape(s.text) if isinstance(s, Literal) else "([^/]+)" if i in captured else "[^/]+")
            for i, s in enumerate(self.segments)
        )


@lru_cache(65_536)
def parse(text: str) -> Pattern:
    """The pattern of a path that the manifests' model has accepted."""
    words = [word for word in text.split("/")[1:] if word]
    has_rest = bool(words) and words[-1] == "**"
    return Pattern(tuple(map(_segment, words[: len(words) - has_rest])), has_rest)


def _segment(word: str) -> Segment:
    if word == "*":
        return Single(None)
    if found := _PARAMETER.fullmatch(word):
        return Single(found[1] or found[2])
    return Literal(word)
