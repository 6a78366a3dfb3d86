"""What pydantic refuses, in users' words: one finding per mistake, however many branches of a union were tried."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic_core import ErrorDetails

from controlplane.manifests import shape
from controlplane.manifests.models.base import nearest
from controlplane.manifests.models.scalars import shown
from controlplane.manifests.problem import Steps, dotted
from controlplane.manifests.values import Value

REDACTED = "[redacted]"
EMPTY = "must not be empty"

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "mapping_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "is_instance_of": "text",
}
_YES = frozenset({"yes", "on", "y"})
_NO = frozenset({"no", "off", "n"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A mistake at a path of a document. `on_key`: its place is the last key of `path`, not the value."""

    path: Steps
    message: str
    code: str
    hint: str = ""
    on_key: bool = False


@dataclass(frozen=True, slots=True)
class _Error:
    path: Steps
    tag: str
    details: ErrorDetails
    value: Value
    on_key: bool


def explain(errors: Iterable[ErrorDetails], document: Value) -> list[Finding]:
    """The findings behind pydantic's errors about `document`."""
    located = [_locate(error, document) for error in errors]
    groups: defaultdict[Steps, list[_Error]] = defaultdict(list)
    findings: list[Finding] = []
    for error in located:
        if error.tag:
            groups[_before_tag(error, document)].append(error)
        else:
            findings.append(_finding(error))
    for path, group in groups.items():
        findings.extend(_union(path, group))
    return _without_echoes(findings)


def path_of(error: ErrorDetails, document: Value) -> Steps:
    """Where in the document an error is."""
    return _locate(error, document).path


def _locate(error: ErrorDetails, document: Value) -> _Error:
    """Follows pydantic's location as far as the document goes; what does not exist there names a union's branch."""
    here: Value = document
    path: list[str | int] = []
    tag = ""
    on_key = False
    location = error["loc"]
    for i, step in enumerate(location):
        if _has(here, step):
            here = _child(here, step)
            path.append(step)
        elif step == "[key]":
            on_key = True
        elif error["type"] == "missing" and i == len(location) - 1:
            path.append(step)
        elif not tag:
            tag = str(step)
    return _Error(tuple(path), tag, error, here, on_key)


def _has(value: Value, step: str | int) -> bool:
    if isinstance(value, dict):
        return isinstance(step, str) and step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _child(value: Value, step: str | int) -> Value:
    if isinstance(value, dict) and isinstance(step, str):
        return value[step]
    return value[step] if isinstance(value, list) and isinstance(step, int) else None


def _before_tag(error: _Error, document: Value) -> Steps:
    """The path up to where the branches of a union part."""
    here: Value = document
    path: list[str | int] = []
    for step in error.details["loc"]:
        if not _has(here, step):
            break
        here = _child(here, step)
        path.append(step)
    return tuple(path)


def _union(path: Steps, group: Sequence[_Error]) -> list[Finding]:
    """The branch that was meant, or all of them in one finding when the value fits none."""
    branches: dict[str, list[_Error]] = {}
    for error in group:
        branches.setdefault(error.tag, []).append(error)
    if len(branches) == 1:
        return [_finding(error) for error in group]
    meant = [
        branch
        for branch in branches.values()
        if not any(e.path == path and e.details["type"] in _EXPECTED for e in branch)
    ]
    expected = list(dict.fromkeys(_EXPECTED[e.details["type"]] for e in group if e.details["type"] in _EXPECTED))
    if meant:
        said = min(meant, key=lambda branch: branch[0].details["type"] == "literal_error")
        findings = [_finding(error) for error in said]
        if said[0].details["type"] == "literal_error" and expected:
            return [replace(f, message=f.message.replace(", found", f" or {expected[0]}, found", 1)) for f in findings]
        return findings
    return [
        Finding(
            path=path,
            message=f"expected {' or '.join(expected)}, found {_found(path, group[0].value)}",
            code="type",
        )
    ]


def _finding(error: _Error) -> Finding:
    details, path, value = error.details, error.path, error.value
    kind = details["type"]
    if kind == "missing":
        return _missing(path)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind.startswith("causeway."):
        context = details.get("ctx", {})
        message, hint = str(context.get("message", "")), str(context.get("hint", ""))
        if shape.is_secret(path):
            message, hint = _hide(message, value), _hide(hint, value)
        code = kind.removeprefix("causeway.")
        return Finding(path=path, message=message, hint=hint, code=code, on_key=error.on_key)
    if kind in _EXPECTED:
        expected = _EXPECTED[kind]
        message = f"expected {expected}, found {_found(path, value)}"
        return Finding(path=path, message=message, hint=_type_hint(kind, path, value), code="type", on_key=error.on_key)
    if kind == "literal_error":
        return _choice(path, value, str(details.get("ctx", {}).get("expected", "")))
    message = _bound(details) or _lower(details["msg"])
    return Finding(path=path, message=message, code="value", on_key=error.on_key)


def _hide(text: str, value: Value) -> str:
    return text.replace(value, REDACTED) if isinstance(value, str) and value else text


def _found(path: Steps, value: Value) -> str:
    if shape.is_secret(path) and not isinstance(value, dict | list | None):
        return REDACTED
    return shown(value)


def _type_hint(kind: str, path: Steps, value: Value) -> str:
    if shape.is_secret(path):
        return "put it in quotes" if kind == "string_type" else ""
    match kind, value:
        case "bool_type", str() if value.lower() in _YES:
            return "write true"
        case "bool_type", str() if value.lower() in _NO:
            return "write false"
        case "bool_type", int() if value in (0, 1):
            return f"write {'true' if value else 'false'}"
        case (("int_type" | "float_type"), str()) if re.fullmatch(r"-?\d+", value):
            return "leave the quotes out"
        case "string_type" | "is_instance_of", bool() | int() | float():
            return "put it in quotes"
        case "tuple_type" | "list_type", str() | int() | float():
            return f"write [{value}]"
        case "tuple_type" | "list_type", dict():
            return 'begin each item with "- "'
        case "dict_type" | "mapping_type", list() if path and path[-1] in ("services", "limits"):
            return "write a name and a colon for each, not a list"
        case "model_type" | "model_attributes_type", str() | int() | float() | bool():
            keys = shape.known_keys(path)
            return f"write {{{keys[0]}: ...}}" if keys else ""
    return ""


def _missing(path: Steps) -> Finding:
    key = path[-1]
    about = shape.description(path)
    return Finding(path=path[:-1], message=f'"{key}" is missing', hint=about, code="missing", on_key=True)


def _unknown_key(path: Steps) -> Finding:
    key = str(path[-1])
    known = shape.known_keys(path[:-1])
    guess = nearest(key, known)
    places = shape.homes(key)
    below = [place for place in places if place.startswith(dotted(path[:-1]) + ".")]
    if below:
        hint = f"it belongs in {below[0]}"
    elif guess:
        hint = f'did you mean "{guess}"?'
    elif places:
        hint = "it belongs at the top of a document" if "" in places else f"it belongs in {' or '.join(places[:3])}"
    elif len(known) <= 16:
        hint = "known here: " + ", ".join(known)
    else:
        hint = ""
    return Finding(path=path, message=f'unknown key "{key}"', hint=hint, code="unknown-key", on_key=True)


def _choice(path: Steps, value: Value, expected: str) -> Finding:
    choices = [text or number for text, number in re.findall(r"'([^']*)'|(-?\d+)", expected)]
    guess = nearest(value, choices) if isinstance(value, str) else None
    listed = ", ".join(choices[:-1]) + f" or {choices[-1]}" if len(choices) > 1 else "".join(choices)
    return Finding(
        path=path,
        message=f"expected {listed}, found {_found(path, value)}",
        hint=f'did you mean "{guess}"?' if guess else "",
        code="choice",
    )


def _bound(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    found = details["input"]
    match details["type"]:
        case "greater_than_equal":
            return f"must be at least {context['ge']}, found {found}"
        case "greater_than":
            return f"must be more than {context['gt']}, found {found}"
        case "less_than_equal":
            return f"must be at most {context['le']}, found {found}"
        case "less_than":
            return f"must be less than {context['lt']}, found {found}"
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return EMPTY
        case "too_short":
            return f"must have at least {context['min_length']} entries, found {context['actual_length']}"
        case "too_long" if isinstance(found, str):
            return f"must have at most {context['max_length']} characters"
        case "too_long":
            return f"must have at most {context['max_length']} entries, found {context['actual_length']}"
        case "string_too_short":
            return f"must have at least {context['min_length']} characters"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
    return ""


def _lower(text: str) -> str:
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]


def _without_echoes(findings: list[Finding]) -> list[Finding]:
    """Leaves out a missing key where a misspelt one beside it explains why, and a list that is empty only because
    every item in it was refused."""
    meant = {
        (f.path[:-1], found[1])
        for f in findings
        if f.code == "unknown-key" and (found := re.fullmatch(r'did you mean "(.*)"\?', f.hint))
    }
    return [
        f
        for f in findings
        if (f.code != "missing" or (f.path, f.message.removesuffix(" is missing").strip('"')) not in meant)
        and not (
            f.message == EMPTY and any(len(g.path) > len(f.path) and g.path[: len(f.path)] == f.path for g in findings)
        )
    ]
