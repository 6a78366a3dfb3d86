"""The reference of the manifests as Markdown, made from the JSON Schema: each key, what may be written, its default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from controlplane.manifests.schema import json_schema

Schema = Mapping[str, object]

SHOWN_CHOICES = 12


def markdown() -> str:
    """A chapter for each mapping that can be written, in the order in which they are met from the top."""
    root = json_schema()
    definitions = _mapping(root["$defs"])
    chapters = [_chapter("A document", root)]
    chapters += [_chapter(name, _mapping(definitions[name])) for name in _met(root, definitions)]
    return "\n".join(chapters)


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _met(root: Schema, definitions: Schema) -> list[str]:
    """The names of the definitions with keys, depth first."""
    met: dict[str, None] = {}

    def visit(schema: object) -> None:
        for name in _references(schema):
            definition = _mapping(definitions.get(name))
            if name not in met and "properties" in definition:
                met[name] = None
                visit(definition)

    visit({key: value for key, value in root.items() if key != "$defs"})
    return list(met)


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix("#/$defs/")
        for key, value in schema.items():
            if key not in ("default", "examples"):
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _chapter(name: str, schema: Schema) -> str:
    required = schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    rows = [
        f"| `{key}`{' (required)' if key in needed else ''} | {_cell(_shape(_mapping(field)))} "
        f"| {_default(_mapping(field))} | {_cell(_words(_mapping(field)))} |"
        for key, field in _mapping(schema.get("properties")).items()
    ]
    head = ["| key | what may be written | default | |", "|---|---|---|---|"]
    return "\n".join([f"### {name}", "", _words(schema), "", *head, *rows, ""])


def _words(schema: Schema) -> str:
    text = schema.get("description")
    return " ".join(text.split()) if isinstance(text, str) else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    default = schema["default"]
    if isinstance(default, dict):
        return "see there" if default else ""
    if isinstance(default, list) and not default:
        return ""
    return _code(default)


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _shape(schema: Schema) -> str:
    """What may be written, in words."""
    branches = schema.get("anyOf")
    if isinstance(branches, list):
        shapes = [_shape(_mapping(branch)) for branch in branches]
        examples = _examples(schema)
        if examples and any(_mapping(b).get("type") == "string" for b in branches):
            shapes = [examples, *[s for s in shapes if s != "text"]]
        return " or ".join(dict.fromkeys(shape for shape in shapes if shape))
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix("#/$defs/")
        return "" if name == "Variable" else f"[{name}](#{name.lower()})"
    for keyword in ("enum", "const"):
        if keyword in schema:
            found = schema[keyword]
            choices = found if isinstance(found, list) else [found]
            return ", ".join(map(_code, choices[:SHOWN_CHOICES])) + (", ..." if len(choices) > SHOWN_CHOICES else "")
    return _simple(schema)


def _simple(schema: Schema) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {_shape(_mapping(schema.get('items')))}"
        case "object":
            values = schema.get("additionalProperties") or next(
                iter(_mapping(schema.get("patternProperties")).values()), 0
            )
            return f"names, each with {_shape(_mapping(values)) or 'a value'}"
        case "integer":
            return "whole number" + _range(schema)
        case "number":
            return "number" + _range(schema)
        case "boolean":
            return "`true`, `false`"
        case "string":
            if schema.get("writeOnly"):
                return "text, secret"
            return _examples(schema) or "text"
    return ""


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" from {low}" if low is not None else ""


def _examples(schema: Schema) -> str:
    examples = schema.get("examples")
    return ", ".join(_code(e) for e in examples if isinstance(e, str)) if isinstance(examples, list) else ""
