"""The JSON Schema of a document, as editors want it, made from the models.

It accepts what the models accept before variables are replaced: wherever a number, a choice or a patterned text may
stand, a text with `${...}` in it may stand too. It has no null: a key without a value is a problem.
"""

from __future__ import annotations

from pydantic.json_schema import GenerateJsonSchema

from controlplane.manifests.models.document import Document
from controlplane.manifests.models.scalars import Written

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODELINE = "# yaml-language-server: $schema="

_VARIABLE = {"$ref": "#/$defs/Variable"}
_VARIABLE_SCHEMA = {
    "title": "Variable",
    "type": "string",
    "pattern": r"\$\{[^}]+\}",
    "description": "`${VAR}`, `${VAR:-default}` or `${file:path}`, replaced before the value is read.",
}


def json_schema() -> dict[str, object]:
    """The schema of one document."""
    generated = Document.model_json_schema(schema_generator=_AsWritten)
    schema = _object(_rewritten(generated))
    definitions = _object(schema.pop("$defs", {}))
    definitions["Variable"] = dict(_VARIABLE_SCHEMA)
    for definition in definitions.values():
        for field in _object(_object(definition).get("properties")).values():
            _describe(_object(field), definitions)
    return {
        "$schema": DIALECT,
        "$id": "https://causeway.example/manifest.schema.json",
        **schema,
        "title": "Causeway manifest",
        "$defs": dict(sorted(definitions.items())),
    }


class _AsWritten(GenerateJsonSchema):
    """Defaults as a user would write them."""

    def encode_default(self, dft: object) -> object:
        return str(dft) if isinstance(dft, Written) else super().encode_default(dft)


def _describe(field: dict[str, object], definitions: dict[str, object]) -> None:
    """pydantic leaves out a field's description that is its type's own; editors would show nothing."""
    reference = field.get("$ref")
    if isinstance(reference, str) and "description" not in field:
        text = _object(definitions.get(reference.removeprefix("#/$defs/"))).get("description")
        if isinstance(text, str):
            field["description"] = text


def _bare(value: object) -> object:
    """A default without what is not written."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    return [_bare(item) for item in value] if isinstance(value, list) else value


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _rewritten(value: object) -> object:
    if isinstance(value, list):
        return [_rewritten(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _rewritten_keyword(key, item) for key, item in value.items()}
    schema = _without_null(schema)
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    if not schema.get("examples", True):
        del schema["examples"]
    schema.pop("title", None)  # pydantic's titles only repeat the key
    if "anyOf" in schema:
        schema = {key: item for key, item in schema.items() if key not in ("minLength", "maxLength")}
    if schema.get("type") == "object" and "maxLength" in schema:
        schema["maxProperties"] = schema.pop("maxLength")
    return _or_variable(schema)


def _rewritten_keyword(key: str, item: object) -> object:
    """Keywords that hold schemas by name must not be taken for a schema themselves."""
    if key in ("properties", "$defs", "patternProperties"):
        return {name: _rewritten(child) for name, child in _object(item).items()}
    if key == "default":
        return _bare(item)
    if key in ("examples", "enum", "const", "required"):
        return item
    if key == "propertyNames":
        return {name: child for name, child in _object(item).items() if name != "examples"}
    return _rewritten(item)


def _without_null(schema: dict[str, object]) -> dict[str, object]:
    branches = schema.get("anyOf")
    if not isinstance(branches, list):
        return schema
    kept = [branch for branch in branches if branch != {"type": "null"}]
    flat: list[object] = []
    for branch in kept:
        inner = branch.get("anyOf") if isinstance(branch, dict) and set(branch) <= {"anyOf", "description"} else None
        flat += [b for b in (inner if isinstance(inner, list) else [branch]) if b not in flat]
    if len(flat) == 1 and isinstance(flat[0], dict):
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**flat[0], **rest}
    return {**schema, "anyOf": flat}


def _or_variable(schema: dict[str, object]) -> dict[str, object]:
    kind = schema.get("type")
    typed = kind in ("integer", "number", "boolean")
    limited = kind == "string" and ({"pattern", "enum", "const", "maxLength", "minLength"} & schema.keys())
    listed = "enum" in schema and kind is None
    if not (typed or limited or listed or "const" in schema):
        return schema
    about: dict[str, object] = {key: schema[key] for key in ("description", "default", "examples") if key in schema}
    return {**about, "anyOf": [{k: v for k, v in schema.items() if k not in about}, dict(_VARIABLE)]}
