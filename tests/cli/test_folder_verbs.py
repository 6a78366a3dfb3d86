"""validate, schema, render and routes: what they print, their exit codes, and that no secret gets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from controlplane.cli.main import build
from controlplane.manifests.reference import markdown
from controlplane.manifests.schema import json_schema

SECRET = "a-secret-of-more-than-thirty-two-characters"
TOKEN = "a-token-for-the-service"

GOOD = """\
identity:
  issuers:
    main: {issuer: i, audiences: [a], algorithms: [HS256], secret: "${JWT}"}
    other: {issuer: o, audiences: [a], algorithms: [HS256], secret: a-literal-secret-of-more-than-32-characters}
limits:
  few: {rate: 5/min, by: ip}
services:
  orders: {endpoints: ["127.0.0.1:3000"]}
  search: {endpoints: ["127.0.0.1:3001"]}
routes:
  - {path: /orders/**, service: orders, auth: {roles: [admin, clerk]}, limits: [few]}
  - {path: /orders/:id, methods: [GET], service: orders, auth: public, request_headers: {set: {x-token: "${TOKEN}"}}}
  - {path: /search, services: [{service: search, weight: 3}, {service: orders, weight: 1}], headers: {x-a: {prefix: b}}}
  - {path: /old, redirect: https://example.com/new, hosts: example.com, auth: public}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JWT", SECRET)
    monkeypatch.setenv("TOKEN", TOKEN)
    monkeypatch.delenv("CAUSEWAY_MANIFESTS", raising=False)
    (tmp_path / "a.yaml").write_text(GOOD)
    return tmp_path


def causeway(*arguments: object) -> Result:
    return CliRunner().invoke(build(), [str(argument) for argument in arguments])


def break_it(folder: Path) -> None:
    (folder / "b.yaml").write_text("routes: [{path: x, service: orders}]\n")


def test_validate_says_what_it_looked_at(folder: Path) -> None:
    result = causeway("validate", folder)
    assert result.exit_code == 0
    assert result.stdout == f"{folder}: 1 file, 2 services, 4 routes, 1 limit, no problems\n"


def test_validate_fails_with_the_place_of_a_problem(folder: Path) -> None:
    break_it(folder)
    result = causeway("validate", folder)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith('b.yaml:1:17: route: a path starts with /, found "x"\n')
    assert result.stderr.endswith("1 problem in 1 file\n")


def test_validate_finds_references_to_nothing(folder: Path) -> None:
    (folder / "b.yaml").write_text("routes: [{path: /x, service: order}]\n")
    result = causeway("validate", folder)
    assert result.exit_code == 1
    assert 'did you mean "orders"?' in result.stderr


@pytest.mark.parametrize("verb", ["validate", "render", "routes"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("routes: [", id="a file that is not YAML"),
        pytest.param("routs: []", id="an unknown key"),
        pytest.param("", id="an empty file"),
        pytest.param("routes: [{path: /x, service: nothing}]", id="an unknown service"),
        pytest.param("services: {orders: {endpoints: ['a:1']}}", id="a name that is there twice"),
        pytest.param("routes: [{path: '/${NOT_SET_ANYWHERE}', redirect: /}]", id="a variable that is not set"),
    ],
)
def test_every_verb_fails_on_a_problem(folder: Path, verb: str, content: str) -> None:
    (folder / "b.yaml").write_text(content)
    result = causeway(verb, folder)
    assert result.exit_code == 1
    assert "b.yaml:1:" in result.stderr


def test_a_missing_folder_fails(tmp_path: Path) -> None:
    result = causeway("validate", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "there is no such folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        pytest.param(["--json"], "[", id="json"),
        pytest.param(["--format", "json"], "[", id="json by format"),
        pytest.param(["--format", "sarif"], "{", id="sarif"),
        pytest.param(["--format", "github"], "::error file=", id="github"),
    ],
)
def test_validate_tells_programs_on_standard_output(folder: Path, arguments: list[str], start: str) -> None:
    break_it(folder)
    result = causeway("validate", folder, *arguments)
    assert result.exit_code == 1
    assert result.stdout.startswith(start)


def test_validate_tells_programs_that_there_is_nothing(folder: Path) -> None:
    assert json.loads(causeway("validate", "--json", folder).stdout) == []
    assert json.loads(causeway("validate", "--format", "sarif", folder).stdout)["runs"][0]["results"] == []
    assert causeway("validate", "--format", "github", folder).stdout == ""


def test_an_unknown_format_is_a_wrong_command_line(folder: Path) -> None:
    assert causeway("validate", "--format", "xml", folder).exit_code == 2


def test_the_folder_may_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUSEWAY_MANIFESTS", str(folder))
    assert causeway("validate").exit_code == 0


def test_schema_prints_the_schema_and_the_reference() -> None:
    assert json.loads(causeway("schema").stdout) == json_schema()
    assert causeway("schema", "--reference").stdout == markdown()


def test_render_prints_every_type_and_no_secret(folder: Path) -> None:
    shown = yaml.safe_load(causeway("render", folder).stdout)
    assert list(shown) == ["listeners", "routes", "clusters", "endpoints", "secrets", "policies"]
    assert {cluster["name"] for cluster in shown["clusters"]} >= {"service/orders", "service/search"}
    assert all(resource["version"] for resources in shown.values() for resource in resources)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--type", "policies"], ["--type", "routes"]])
def test_render_never_shows_a_secret(folder: Path, arguments: list[str]) -> None:
    text = causeway("render", folder, *arguments).stdout
    assert SECRET not in text
    assert "a-literal-secret" not in text
    assert TOKEN not in text
    assert "[redacted]" in text


def test_render_shows_what_is_asked_for(folder: Path) -> None:
    shown = json.loads(causeway("render", folder, "--json", "-t", "clusters", "-n", "service/orders").stdout)
    assert list(shown) == ["clusters"]
    assert [cluster["name"] for cluster in shown["clusters"]] == ["service/orders"]


def test_render_of_nothing_names_what_there_is(folder: Path) -> None:
    result = causeway("render", folder, "-t", "clusters", "-n", "orders")
    assert result.exit_code == 2
    assert "service/orders" in result.stderr


def test_routes_are_listed_in_match_order(folder: Path) -> None:
    shown = json.loads(causeway("routes", "--json", folder).stdout)
    everywhere = [row for row in shown if row["hosts"] == ["*"]]
    assert [(row["path"], row["methods"], row["target"], row["auth"], row["limits"]) for row in everywhere] == [
        ("/orders/:id", ["GET", "HEAD"], "orders", "public", []),
        ("/orders/**", [], "orders", "required, role admin|clerk", ["few"]),
        ("/search", [], "search 75% orders 25%", "required", []),
    ]
    assert everywhere[2]["conditions"] == ["header x-a=b..."]
    assert everywhere[0]["place"] == "a.yaml:12:5"
    redirect = next(row for row in shown if row["path"] == "/old")
    assert redirect["hosts"] == ["example.com"]
    assert redirect["target"] == "redirect 302 https://example.com/new"


def test_routes_can_be_those_of_one_service(folder: Path) -> None:
    paths = {row["path"] for row in json.loads(causeway("routes", "--json", "-s", "search", folder).stdout)}
    assert paths == {"/search"}


def test_the_table_of_routes_is_whole_in_a_pipe(folder: Path) -> None:
    table = causeway("routes", folder).stdout
    assert "role admin|clerk" in table
    assert "[header x-a=b...]" in table
    assert "\x1b" not in table


@pytest.mark.parametrize("verb", ["validate", "schema", "render", "routes"])
def test_help_teaches_by_example(verb: str) -> None:
    result = causeway(verb, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 8
