"""The JSON Schema is valid, current, and says the same as the gateway about the examples and about mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from controlplane.manifests.interpolation import Environment, Interpolation, show
from controlplane.manifests.schema import MODELINE, json_schema
from controlplane.manifests.syntax import read_syntax
from controlplane.manifests.values import Reading
from tests.manifests.mistakes import KEYS, MARK, SCALARS, TYPES, Mistake

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "docs" / "manifest.schema.json"
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
NOTHING = Environment(variables={}, read=lambda name: "")
SCHEMA = Draft202012Validator(json_schema())


def errors(text: str) -> list[str]:
    """What an editor finds: it reads YAML 1.2, as the gateway does, and sees variables as they are written."""
    syntax = read_syntax("a.yaml", text.encode())
    reading = Reading("a.yaml", Interpolation(NOTHING), has_variables=False)
    values = [json.dumps(reading.value(root), ensure_ascii=False) for root in syntax.roots]
    documents = [json.loads(show(value)) for value in values]
    return [f"{e.json_path}: {e.message}" for document in documents for e in SCHEMA.iter_errors(document)]


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_the_schema_in_docs_is_the_one_of_this_version() -> None:
    assert json.loads(WRITTEN.read_text()) == json_schema(), "run: causeway schema > docs/manifest.schema.json"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_example_validates(file: Path) -> None:
    assert errors(file.read_text()) == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_example_begins_with_a_modeline_that_leads_to_the_schema(file: Path) -> None:
    first = file.read_text().partition("\n")[0]
    assert first.startswith(MODELINE)
    assert (file.parent / first.removeprefix(MODELINE)).resolve() == WRITTEN


@pytest.mark.parametrize("mistake", [*KEYS, *TYPES], ids=lambda mistake: mistake.id)
def test_an_editor_sees_a_wrong_key_or_type_too(mistake: Mistake) -> None:
    assert errors(mistake.text.replace(MARK, ""))


@pytest.mark.parametrize(
    "mistake", [m for m in SCALARS if "unit" in m.message or "%" in m.hint], ids=lambda mistake: mistake.id
)
def test_an_editor_sees_a_missing_unit_too(mistake: Mistake) -> None:
    assert errors(mistake.text.replace(MARK, ""))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("gateway: {listeners: [8080, '${PORT}', {port: '${PORT:-1}'}]}", id="a number"),
        pytest.param("services: {a: {endpoints: ['${A}'], timeout: '${T}', critical: '${C}'}}", id="any scalar"),
        pytest.param("routes: [{path: '${P}', methods: ['${M}'], service: '${S}', auth: '${A}'}]", id="a choice"),
    ],
)
def test_a_variable_may_stand_for(text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("routes: [{path: /a, service: a, auth: public}]", id="one word for a mapping"),
        pytest.param("routes: [{path: /a, service: a, auth: {roles: admin}}]", id="one role"),
        pytest.param("routes: [{path: /a, service: a, hosts: a.b, headers: {x-a: b}}]", id="one host, one value"),
        pytest.param("services: {a: {endpoints: ['a:1', {address: 'b:1', weight: 2}]}}", id="both kinds of endpoint"),
        pytest.param("services: {a: {endpoints: ['a:1'], load_balancing: random}}", id="one word for balancing"),
        pytest.param("services: {a: {endpoints: ['a:1'], retry: {methods: any, on: [5xx, 503]}}}", id="a status"),
        pytest.param("limits: {a: {rate: 5/min, by: [user, method], block: 5m}}", id="a list of keys"),
        pytest.param("routes: [{path: /a, redirect: 'https://b.c/d'}]", id="a redirect in one word"),
    ],
)
def test_a_short_form_is_accepted(text: str) -> None:
    assert errors(text) == []


def test_every_key_has_a_description() -> None:
    """An editor shows it when the mouse is over the key."""
    bare = [
        f"{name}.{key}"
        for name, definition in json_schema()["$defs"].items()  # type: ignore[attr-defined]
        for key, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert bare == []
