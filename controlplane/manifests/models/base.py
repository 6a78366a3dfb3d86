"""The base of every model a user writes, and how a model refuses a value.

A model is closed (an unknown key is a problem), frozen, and described by the docstrings under its fields: the JSON
Schema and the reference are made from them. Values are taken as written: the text "5" is not a number and "yes" is not
true. Sequences are `tuple[X, ...]` and come as YAML lists.

This module must not know YAML, files or positions: the loader turns what is refused here into problems with a place.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def _lists_for_tuples(schema: object) -> None:
    """Lets a list stand where a tuple is declared, in a schema that is strict about everything else."""
    if isinstance(schema, dict):
        if schema.get("type") == "tuple":
            schema["strict"] = False
        for value in schema.values():
            _lists_for_tuples(value)
    elif isinstance(schema, list):
        for value in schema:
            _lists_for_tuples(value)


class Model(BaseModel):
    """Base of all models of this package."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=False,
        hide_input_in_errors=True,
        # Keys are written with underscores; no second spelling.
        populate_by_name=False,
    )

    shorthand: ClassVar[str | None] = None
    """The field that a bare scalar, written in place of the whole mapping, stands for."""

    def __deepcopy__(self, memo: object = None) -> Self:
        """Itself: nothing in it changes. pydantic copies a default that it cannot hash, once per model made."""
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        schema = handler(source)
        _lists_for_tuples(schema)
        return core_schema.no_info_before_validator_function(cls._expand, schema) if cls.shorthand else schema

    @classmethod
    def _expand(cls, value: object) -> object:
        if isinstance(value, str | int | float):
            return {cls.shorthand: value}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        written = handler(schema)
        if cls.shorthand is None or schema["type"] != "function-before":
            return written
        fields = handler.resolve_ref_schema(written).get("properties")
        if fields is None:
            return written
        short = fields[cls.shorthand]
        return {"anyOf": [{k: v for k, v in short.items() if k not in ("title", "default")}, written]}


def refuse(message: str, *, hint: str = "", code: str = "value") -> PydanticCustomError:
    """The error a validator raises: what was found and what would be right, in users' words.

    `message` says what is wrong with the value, `hint` what to write instead. `code` is stable and machine-readable.
    """
    return PydanticCustomError("causeway." + code, "{message}", {"message": message, "hint": hint})


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word a misspelt one most likely stands for, or None when none is near."""
    candidates = {k.lower().replace("-", "_"): k for k in known}
    folded = word.lower().replace("-", "_")
    if folded in candidates:
        return candidates[folded]
    found = get_close_matches(folded, candidates, n=1, cutoff=0.6)
    return candidates[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or the empty string when nothing is near."""
    match = nearest(word, known)
    return f'did you mean "{match}"?' if match else ""
