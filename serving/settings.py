"""Settings of a process: one frozen dataclass, filled from flags over the environment over defaults, checked whole.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Settings:
        listen: tuple[Address, ...] = setting("unix:/run/causeway/x.sock", help="Where Envoy connects.")
        redis_url: Secret | None = setting(None, env=("REDIS_URL",), help="Shared store.")
        workers: int = setting(1, minimum=1, maximum=64, help="Processes.")

A field `workers` is the flag `--workers`, the variable `CAUSEWAY_WORKERS` (unless `variable` names another), and the
variable `CAUSEWAY_WORKERS_FILE` naming a file that holds the value. A Secret has no flag: flags show in the list of
processes. Defaults are given as the text a user would write, or as values. `load` returns the settings or raises with
every problem at once; `command` makes a typer command of a settings class, so that help text, flags and variables are
written down once.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin

from serving.address import TcpAddress, UnixAddress, parse_address
from serving.secret import Secret

PREFIX = "CAUSEWAY_"
_MARK = "causeway.setting"
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}

T = TypeVar("T")


class SettingsError(ValueError):
    """Every problem, one a line, each naming the flag or variable at fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    help: str
    variable: str
    env: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    positional: bool = False


def setting(
    default: object = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002  # the word every CLI library uses
    variable: str = "",
    env: Sequence[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    positional: bool = False,
) -> typing.Any:  # as dataclasses.field: it stands for a value of the field's type
    """A field of a settings class. Without a default it must be given. `env` names further variables that are read.

    `variable` is its own in place of the field's name, where other commands mean something else by that. A `positional`
    one is an argument of the command, not a flag. A list is never empty, unless that is its default.
    """
    mark = _Setting(
        help=help, variable=variable, env=tuple(env), minimum=minimum, maximum=maximum, positional=positional
    )
    return dataclasses.field(default=default, metadata={_MARK: mark})


def load(cls: type[T], *, flags: Mapping[str, str | Sequence[str] | None], environ: Mapping[str, str]) -> T:
    """`cls` from `flags` (by field name, None or absent: not given), then `environ`, then defaults.

    Raises SettingsError with every problem.
    """
    hints = typing.get_type_hints(cls)
    problems: list[str] = []
    values: dict[str, object] = {}
    for field in _fields(cls):
        try:
            source, given = _given(field, hints[field.name], flags, environ)
        except SettingsError as unreadable:
            problems.extend(unreadable.problems)
            continue
        if given is None and field.default is dataclasses.MISSING:
            problems.append(f"{_flag(field)} or {_variable(field)} is required: {_mark(field).help}")
            continue
        source, value = (source, given) if given is not None else (f"default of {_flag(field)}", field.default)
        try:
            values[field.name] = _checked(_convert(value, hints[field.name]), field)
        except ValueError as problem:
            problems.append(f"{source}: {problem}")
    if not problems:
        try:
            return cls(**values)
        except ValueError as problem:  # what the class itself checks across fields
            problems.append(str(problem))
    raise SettingsError(problems)


def command(cls: type[T], run: Callable[[T], None]) -> Callable[..., None]:
    """A function for `typer.Typer().command(...)` with an option per setting; it loads the settings and calls `run`.

    Problems end the process with exit code 2, after all of them were printed. The docstring is `run`'s.
    """
    import os

    import typer

    hints = typing.get_type_hints(cls)

    def verb(**flags: str | Sequence[str] | None) -> None:
        try:
            settings = load(cls, flags=flags, environ=os.environ)
        except SettingsError as failure:
            for problem in failure.problems:
                typer.echo(f"error: {problem}", err=True)
            raise typer.Exit(2) from None
        run(settings)

    parameters, annotations = [], {}
    for field in _fields(cls):
        hint = hints[field.name]
        if _is_secret(hint):
            continue
        is_list = get_origin(hint) is tuple
        text = f"{_mark(field).help} [env: {', '.join((_variable(field), *_mark(field).env))}]"
        if field.default not in (dataclasses.MISSING, None, (), ""):
            text += f" [default: {_shown(field.default)}]"
        text = text.replace("[", r"\[")
        if _mark(field).positional:
            option = typer.Argument(help=text, show_default=False, metavar=field.name.upper())
        else:
            option = typer.Option(_flag(field), help=text, show_default=False, metavar=_metavar(hint))
        annotation: object = Annotated[list[str] | None, option] if is_list else Annotated[str | None, option]
        annotations[field.name] = annotation
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    verb.__doc__ = run.__doc__
    verb.__annotations__ = {**annotations, "return": None}
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    return verb


def _fields(cls: type[object]) -> tuple[dataclasses.Field[object], ...]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is no dataclass")
    return dataclasses.fields(cls)


def _mark(field: dataclasses.Field[object]) -> _Setting:
    mark = field.metadata.get(_MARK)
    if not isinstance(mark, _Setting):
        raise TypeError(f"field {field.name} was not made by setting()")
    return mark


def _given(
    field: dataclasses.Field[object],
    hint: object,
    flags: Mapping[str, str | Sequence[str] | None],
    environ: Mapping[str, str],
) -> tuple[str, str | Sequence[str] | None]:
    flag = flags.get(field.name)
    if flag and not _is_secret(hint):
        return _flag(field), flag
    for variable in (_variable(field), *_mark(field).env):
        if environ.get(variable):
            return variable, environ[variable]
        if environ.get(f"{variable}_FILE"):
            return f"{variable}_FILE", _read(f"{variable}_FILE", Path(environ[f"{variable}_FILE"]))
    return "", None


def _read(variable: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as failure:
        raise SettingsError([f"{variable}: cannot read it: {failure.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{variable}: cannot read it: {file} is not UTF-8"]) from None


def _convert(given: object, hint: object) -> object:
    """`given` as a value of the type `hint`. Raises ValueError saying what would be right, never showing a secret."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (UnixAddress | TcpAddress, UnixAddress, TcpAddress):
        return parse_address(given) if isinstance(given, str) else given
    if origin in (Union, types.UnionType):
        options = [one for one in arguments if one is not type(None)]
        return None if given is None else _convert(given, options[0] if len(options) == 1 else Union[tuple(options)])  # noqa: UP007
    if origin is tuple:
        items = (
            given.split(",") if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else [given]
        )
        pieces = [piece for item in items for piece in (item.split(",") if isinstance(item, str) else [item])]
        return tuple(_convert(p.strip() if isinstance(p, str) else p, arguments[0]) for p in pieces if p != "")
    if not isinstance(given, str) or hint is str:
        return given
    if origin is Literal:
        return _one_of(given, {str(choice): choice for choice in arguments})
    if hint is Secret:
        return Secret(given)
    if hint is Path:
        return Path(given)
    if hint is bool:
        return _one_of(given.lower(), {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)})
    if hint is int or hint is float:
        return _number(given, hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of(given, {str(member.value): member for member in hint})
    raise TypeError(f"settings cannot hold {hint}")


def _number(given: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(given)
    except ValueError:
        raise ValueError(f'"{given}" is not a {"whole number" if kind is int else "number"}') from None


def _one_of(given: str, choices: Mapping[str, object]) -> object:
    if given not in choices:
        raise ValueError(f'"{given}": expected one of {", ".join(sorted(choices))}')
    return choices[given]


def _checked(value: object, field: dataclasses.Field[object]) -> object:
    mark = _mark(field)
    if value == () and field.default != ():
        raise ValueError("expected at least one")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if mark.minimum is not None and not value >= mark.minimum:
            raise ValueError(f"{value:g} is less than {mark.minimum:g}")
        if mark.maximum is not None and not value <= mark.maximum:
            raise ValueError(f"{value:g} is more than {mark.maximum:g}")
    return value


def _is_secret(hint: object) -> bool:
    return hint is Secret or Secret in get_args(hint)


def _flag(field: dataclasses.Field[object]) -> str:
    return field.name.upper() if _mark(field).positional else "--" + field.name.replace("_", "-")


def _variable(field: dataclasses.Field[object]) -> str:
    return _mark(field).variable or PREFIX + field.name.upper()


def _metavar(hint: object) -> str:
    known = {int: "NUMBER", float: "NUMBER", Path: "PATH", bool: "yes|no", UnixAddress: "ADDRESS"}
    for one in (hint, *get_args(hint)):
        if isinstance(one, type) and one in known:
            return known[one]
        if isinstance(one, type) and issubclass(one, Enum):
            return "|".join(str(member.value) for member in one)
        if UnixAddress in get_args(one):
            return "ADDRESS"
    return "TEXT"


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default.value) if isinstance(default, Enum) else str(default)
