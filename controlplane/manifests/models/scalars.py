"""The small values of the manifests: durations, rates, sizes, percentages.

Each is one class with one way of writing it, and prints the way it is written. Durations are whole milliseconds, sizes
whole bytes; both are ints, so arithmetic and comparison are plain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from controlplane.manifests.models.base import refuse

LONGEST_MS = 366 * 86_400_000
LARGEST_BYTES = 1 << 40

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNIT_BYTES = {
    "B": 1,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_WINDOW_MS = {
    "s": 1_000,
    "sec": 1_000,
    "second": 1_000,
    "min": 60_000,
    "minute": 60_000,
    "h": 3_600_000,
    "hour": 3_600_000,
    "d": 86_400_000,
    "day": 86_400_000,
}


def _scaled(whole: str, fraction: str | None, scale: int) -> tuple[int, int]:
    """`whole.fraction` times `scale`: the whole part, and what is left over where it is not whole."""
    if not fraction:
        return int(whole) * scale, 0
    part, rest = divmod(int(fraction) * scale, 10 ** len(fraction))
    return int(whole) * scale + part, rest


def shown(value: object) -> str:
    """A value as a user wrote it, for messages: text in quotes, the rest bare."""
    match value:
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
        case bool():
            return "true" if value else "false"
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


class Written:
    """Something written as one piece of text. A subclass has `parse`, a pattern and examples for editors."""

    pattern: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    what: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of `text`. Raises PydanticCustomError, whose message says what would be right."""
        raise NotImplementedError

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise cls.wrong(value)
        return cls.parse(value)

    @classmethod
    def wrong(cls, value: object) -> Exception:
        """The error for a value that is not this at all."""
        hint = "write " + " or ".join(cls.examples)
        return refuse(f"expected {cls.what}, found {shown(value)}", hint=hint, code=cls.__name__.lower())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        return {"type": "string", "pattern": cls.pattern, "examples": list(cls.examples)}


class Duration(Written, int):
    """A span of time, more than zero: `250ms`, `10s`, `5m`, `1h`, `1d`. An int of milliseconds."""

    pattern = r"^\d+(\.\d+)?(ms|s|m|h|d)$"
    examples = ("250ms", "10s", "5m")
    what = "a duration"
    _match = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?([A-Za-zµ]*)").fullmatch

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, (int, float)) and not isinstance(value, (bool, Duration)) and value >= 0:
            raise refuse(
                f"a duration needs a unit, found {value}",
                hint=f'write "{value}s" for seconds or "{value}ms" for milliseconds',
                code="duration",
            )
        return super()._validate(value)

    @classmethod
    def parse(cls, text: str) -> Self:
        found = cls._match(text)
        if found is None:
            raise cls.wrong(text)
        whole, fraction, unit = found.groups()
        if unit not in _UNIT_MS:
            raise refuse(
                f'a duration needs a unit of ms, s, m, h or d, found "{text}"',
                hint=f'write "{whole}{_UNIT_ALIASES.get(unit.lower(), "s")}"',
                code="duration",
            )
        ms, rest = _scaled(whole, fraction, _UNIT_MS[unit])
        if rest:
            raise refuse(f'"{text}" is not a whole number of milliseconds', code="duration")
        if ms == 0:
            raise cls.zero(text)
        if ms > LONGEST_MS:
            raise refuse(f'"{text}" is longer than 366d', code="duration")
        return cls(ms)

    @classmethod
    def zero(cls, text: str) -> Exception:
        return refuse(f'a duration must be more than zero, found "{text}"', code="duration")

    @property
    def ms(self) -> int:
        """Milliseconds."""
        return int(self)

    def __str__(self) -> str:
        ms = int(self)
        for unit in ("d", "h", "m", "s"):
            if ms and ms % _UNIT_MS[unit] == 0:
                return f"{ms // _UNIT_MS[unit]}{unit}"
        return f"{ms}ms"

    __repr__ = __str__


def at_most(longest: Duration) -> AfterValidator:
    """Refuses a longer duration."""

    def check(value: Duration) -> Duration:
        if value > longest:
            raise refuse(f"at most {longest}, found {value}", code="duration")
        return value

    return AfterValidator(check)


_UNIT_ALIASES = {
    "msec": "ms",
    "millis": "ms",
    "milliseconds": "ms",
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "min": "m",
    "mins": "m",
    "minute": "m",
    "minutes": "m",
    "hr": "h",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
}


class Timeout(Duration):
    """A duration, or `none` for no limit at all. An int of milliseconds; 0 stands for `none`."""

    pattern = r"^(none|\d+(\.\d+)?(ms|s|m|h|d))$"
    examples = ("10s", "500ms", "none")

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(0) if text == "none" else super().parse(text)

    @classmethod
    def zero(cls, text: str) -> Exception:
        return refuse(f'"{text}" would end every request at once', hint='write "none" for no limit', code="duration")

    @property
    def is_none(self) -> bool:
        """No limit at all."""
        return int(self) == 0

    def __str__(self) -> str:
        return "none" if int(self) == 0 else super().__str__()

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class DurationRange(Written):
    """From a shortest to a longest duration: `250ms..2s`."""

    first: Duration
    last: Duration

    pattern = r"^\d+(\.\d+)?(ms|s|m|h|d)\.\.\d+(\.\d+)?(ms|s|m|h|d)$"
    examples = ("250ms..2s",)
    what = "a range of durations"

    @classmethod
    def parse(cls, text: str) -> Self:
        first, dots, last = text.partition("..")
        if not dots:
            raise refuse(
                f'expected a range of durations, found "{text}"',
                hint=f'write the shortest and the longest: "{text}..{text}"' if text else "write 250ms..2s",
                code="durationrange",
            )
        value = cls(Duration.parse(first.strip()), Duration.parse(last.strip()))
        if value.first > value.last:
            raise refuse(f'"{text}" runs backwards', hint=f'write "{value.last}..{value.first}"', code="durationrange")
        return value

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"


class Size(Written, int):
    """A number of bytes: `64KiB`, `10MB`. KB, MB, GB are powers of 1000; KiB, MiB, GiB of 1024. An int of bytes."""

    pattern = r"^\d+(\.\d+)?(B|KB|MB|GB|KiB|MiB|GiB)$"
    examples = ("10MB", "64KiB")
    what = "a size"
    _match = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?([A-Za-z]*)").fullmatch

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, int) and not isinstance(value, (bool, Size)) and value >= 0:
            raise refuse(f"a size needs a unit, found {value}", hint=f'write "{value}B" or "{value}MB"', code="size")
        return super()._validate(value)

    @classmethod
    def parse(cls, text: str) -> Self:
        found = cls._match(text)
        if found is None:
            raise cls.wrong(text)
        whole, fraction, unit = found.groups()
        if unit not in _UNIT_BYTES:
            near = {name.lower(): name for name in _UNIT_BYTES} | {"k": "KB", "m": "MB", "g": "GB", "kb": "KB"}
            raise refuse(
                f'a size needs a unit of B, KB, MB, GB, KiB, MiB or GiB, found "{text}"',
                hint=f'write "{whole}{near.get(unit.lower(), "MB")}"',
                code="size",
            )
        size, rest = _scaled(whole, fraction, _UNIT_BYTES[unit])
        if rest:
            raise refuse(f'"{text}" is not a whole number of bytes', code="size")
        if size > LARGEST_BYTES:
            raise refuse(f'"{text}" is more than 1024GiB', code="size")
        return cls(size)

    @property
    def bytes(self) -> int:
        """Bytes."""
        return int(self)

    def __str__(self) -> str:
        size = int(self)
        for unit in ("GiB", "GB", "MiB", "MB", "KiB", "KB"):
            if size and size % _UNIT_BYTES[unit] == 0:
                return f"{size // _UNIT_BYTES[unit]}{unit}"
        return f"{size}B"

    __repr__ = __str__


class SizeLimit(Size):
    """A number of bytes, or `none` for no limit at all. An int of bytes; -1 stands for `none`."""

    pattern = r"^(none|\d+(\.\d+)?(B|KB|MB|GB|KiB|MiB|GiB))$"
    examples = ("10MB", "none")

    @classmethod
    def parse(cls, text: str) -> Self:
        if text == "none":
            return cls(-1)
        size = super().parse(text)
        if size == 0:
            raise refuse(
                f'a limit of "{text}" cannot be held', hint='write "1B", or "none" for no limit', code="sizelimit"
            )
        return size

    @property
    def is_none(self) -> bool:
        """No limit at all."""
        return int(self) < 0

    def __str__(self) -> str:
        return "none" if self.is_none else super().__str__()

    __repr__ = __str__


class Percent(Written, float):
    """A share of a hundred: `50%`, `0.5%`. A float from 0 to 100."""

    pattern = r"^\d+(\.\d+)?%$"
    examples = ("50%", "0.5%")
    what = "a percentage"
    _match = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%").fullmatch

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, (int, float)) and not isinstance(value, (bool, Percent)):
            number = value * 100 if isinstance(value, float) and 0 < value < 1 else value
            raise refuse(f"a percentage ends in %, found {value}", hint=f'write "{number:g}%"', code="percent")
        return super()._validate(value)

    @classmethod
    def parse(cls, text: str) -> Self:
        found = cls._match(text)
        if found is None:
            raise cls.wrong(text)
        value = float(found[1])
        if value > 100:
            raise refuse(f'a percentage is at most 100%, found "{text}"', code="percent")
        return cls(value)

    @property
    def fraction(self) -> float:
        """The share as a number from 0 to 1."""
        return float(self) / 100

    def __str__(self) -> str:
        return f"{format(float(self), '.4f').rstrip('0').rstrip('.')}%"

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class Rate(Written):
    """So many in a window, and how many at once: `5/min`, `100/30s`, `1000/day`, `600/min burst 100`.

    `burst` is None where it was not written.
    """

    count: int
    window: Duration
    burst: int | None = None

    pattern = r"^\d+/(\d+(ms|s|m|h|d)|s|sec|second|min|minute|h|hour|d|day)( burst \d+)?$"
    examples = ("5/min", "100/30s", "600/min burst 100")
    what = "a rate"

    @classmethod
    def parse(cls, text: str) -> Self:
        found = re.fullmatch(r"([0-9]{1,12})/([A-Za-z0-9.]+)(?: burst ([0-9]{1,12}))?", text)
        if found is None:
            raise cls.wrong(text)
        count, window, burst = found.groups()
        if int(count) == 0:
            raise refuse(f'a rate must allow something, found "{text}"', code="rate")
        if burst is not None and int(burst) == 0:
            raise refuse(f'a burst of 0 would let nothing through, found "{text}"', code="rate")
        if window in _WINDOW_MS:
            window_ms = Duration(_WINDOW_MS[window])
        elif window[0].isdigit():
            window_ms = Duration.parse(window)
        else:
            raise refuse(
                f'unknown window "{window}" in the rate "{text}"',
                hint="a window is second, min, hour, day or a duration such as 30s",
                code="rate",
            )
        return cls(int(count), window_ms, int(burst) if burst is not None else None)

    def __str__(self) -> str:
        names = {1_000: "s", 60_000: "min", 3_600_000: "h", 86_400_000: "day"}
        window = names.get(int(self.window)) or str(self.window)
        return f"{self.count}/{window}" + (f" burst {self.burst}" if self.burst is not None else "")
