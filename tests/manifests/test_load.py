"""What comes of a good folder: one value, the place of everything in it, and little work when little changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.manifests.load import Loaded, Memory, Refused, Sources, load
from controlplane.manifests.problem import Steps
from controlplane.origin import Origin

GATEWAY = """\
gateway:
  listeners: [8080, {port: 8443}]
  defaults: {timeout: 5s}
"""
ORDERS = """\
services:
  orders:
    endpoints:
      - orders:3000
      - {address: "orders-2:3000", weight: 2}
    retry: {attempts: 3}
routes:
  - {path: /orders, methods: [GET, POST], service: orders}
  - path: /orders/:id
    service: orders
    headers: {x-version: "2"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    (tmp_path / "orders.yaml").write_text(ORDERS)
    return tmp_path


def loaded(folder: Path, environ: dict[str, str] | None = None, memory: Memory | None = None) -> Loaded:
    result = load(folder, environ or {}, memory)
    assert isinstance(result, Loaded), [str(problem) for problem in result.problems]
    return result


def test_everything_that_is_written_is_in_the_manifest(folder: Path) -> None:
    manifest = loaded(folder).manifest
    assert [listener.port for listener in manifest.gateway.listeners] == [8080, 8443]
    assert manifest.gateway.defaults.timeout == 5000
    assert [str(endpoint.address) for endpoint in manifest.services["orders"].endpoints] == [
        "orders:3000",
        "orders-2:3000",
    ]
    assert [route.label for route in manifest.routes] == ["GET,POST /orders", "/orders/:id"]


PLACES = [
    (("gateway",), "gateway.yaml:1:1"),
    (("gateway", "listeners", 1), "gateway.yaml:2:21"),
    (("gateway", "listeners", 1, "port"), "gateway.yaml:2:28"),
    (("gateway", "defaults"), "gateway.yaml:3:3"),
    (("services", "orders"), "orders.yaml:2:3"),
    (("services", "orders", "endpoints", 0), "orders.yaml:4:9"),
    (("services", "orders", "endpoints", 1, "weight"), "orders.yaml:5:44"),
    (("services", "orders", "retry", "attempts"), "orders.yaml:6:23"),
    (("routes", 0), "orders.yaml:8:5"),
    (("routes", 0, "methods", 1), "orders.yaml:8:36"),
    (("routes", 0, "service"), "orders.yaml:8:52"),
    (("routes", 1), "orders.yaml:9:5"),
    (("routes", 1, "service"), "orders.yaml:10:14"),
    (("routes", 1, "headers", "x-version"), "orders.yaml:11:26"),
]


@pytest.mark.parametrize(("path", "place"), PLACES, ids=lambda value: value if isinstance(value, str) else None)
def test_the_place_of_a_path(folder: Path, path: Steps, place: str) -> None:
    assert str(loaded(folder).sources.position(path)) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        pytest.param(("routes", 0, "timeout"), "orders.yaml:8:5", id="a field that is not written has its route's"),
        pytest.param(("services", "orders", "retry", "on"), "orders.yaml:6:5", id="or its section's"),
        pytest.param(("identity",), "gateway.yaml:1:1", id="a section that is not written has the first file's"),
    ],
)
def test_what_is_not_written_has_the_nearest_place(folder: Path, path: Steps, place: str) -> None:
    assert str(loaded(folder).sources.position(path)) == place


def test_a_problem_at_a_path_knows_what_it_is_about(folder: Path) -> None:
    problem = loaded(folder).sources.problem(("routes", 1, "service"), "unknown service", code="reference")
    assert str(problem) == 'orders.yaml:10:14: route "/orders/:id": unknown service'
    assert problem.length == len("orders")


def test_routes_keep_their_place_when_another_file_comes_before(folder: Path) -> None:
    (folder / "a.yaml").write_text("routes: [{path: /a, redirect: /b}]\n")
    sources = loaded(folder).sources
    assert sources.position(("routes", 0)) == Origin(file="a.yaml", line=1, column=10)
    assert str(sources.position(("routes", 2))) == "orders.yaml:9:5"


def test_an_edit_costs_only_its_own_file(folder: Path) -> None:
    memory = Memory()
    before = loaded(folder, memory=memory).sources
    (folder / "orders.yaml").write_text(ORDERS.replace("attempts: 3", "attempts: 4"))
    after = loaded(folder, memory=memory)
    assert after.sources.files["gateway.yaml"] is before.files["gateway.yaml"]
    assert after.sources.files["orders.yaml"] is not before.files["orders.yaml"]
    retry = after.manifest.services["orders"].retry
    assert retry is not None
    assert retry.attempts == 4


def test_a_variable_that_changed_makes_its_file_read_again(folder: Path) -> None:
    (folder / "v.yaml").write_text("services: {v: {endpoints: ['${V}']}}\n")
    memory = Memory()
    loaded(folder, {"V": "a:1"}, memory)
    again = loaded(folder, {"V": "b:1"}, memory)
    assert str(again.manifest.services["v"].endpoints[0].address) == "b:1"


def test_an_included_file_that_changed_makes_its_file_read_again(folder: Path) -> None:
    (folder / "v.yaml").write_text("services: {v: {endpoints: ['${file:addr}']}}\n")
    (folder / "addr").write_text("a:1\n")
    memory = Memory()
    first = loaded(folder, memory=memory)
    assert first.sources.included == (folder / "addr",)
    (folder / "addr").write_text("b:1\n")
    again = loaded(folder, memory=memory)
    assert str(again.manifest.services["v"].endpoints[0].address) == "b:1"


def test_a_folder_that_was_put_right_is_loaded(folder: Path) -> None:
    memory = Memory()
    (folder / "orders.yaml").write_text("services: [\n")
    assert isinstance(load(folder, {}, memory), Refused)
    (folder / "orders.yaml").write_text(ORDERS)
    assert loaded(folder, memory=memory).manifest.routes


@pytest.mark.parametrize(
    ("written", "environ", "port"),
    [
        pytest.param("${P}", {"P": "81"}, 81, id="a number without quotes"),
        pytest.param('"${P}"', {"P": "81"}, 81, id="a number in quotes, which editors want in brackets"),
        pytest.param('"${P:-82}"', {}, 82, id="a default"),
        pytest.param("8${P}", {"P": "1"}, 81, id="a part of a number"),
    ],
)
def test_a_variable_has_the_type_of_its_field(tmp_path: Path, written: str, environ: dict[str, str], port: int) -> None:
    (tmp_path / "a.yaml").write_text(f"gateway: {{listeners: [{{port: {written}}}]}}\n")
    assert loaded(tmp_path, environ).manifest.gateway.listeners[0].port == port


@pytest.mark.parametrize("value", ["12345", "true", "1.10", "null", "0x10", "~"])
def test_a_variable_in_a_text_field_is_text_whatever_it_looks_like(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.yaml").write_text("routes: [{path: /a, respond: {body: ${V}}}]\n")
    respond = loaded(tmp_path, {"V": value}).manifest.routes[0].respond
    assert respond is not None
    assert respond.body == value


def test_a_variable_may_stand_for_a_boolean(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("services: {a: {endpoints: ['a:1'], maintenance: {enabled: ${M:-false}}}}\n")
    assert [
        found.enabled
        for environ in ({}, {"M": "true"})
        if (found := loaded(tmp_path, environ).manifest.services["a"].maintenance)
    ] == [False, True]


SECRET = "a-very-secret-value-of-forty-characters!"
ISSUER = "identity:\n  issuers:\n    main: {issuer: i, audiences: [a], algorithms: [HS256], %s}\n"


def _everything(sources: Sources, result: Loaded | Refused) -> str:
    lines = [file.line(n) for file in sources.files.values() for n in range(1, file.syntax.text.count("\n") + 2)]
    problems = [f"{problem!r}" for problem in result.problems] if isinstance(result, Refused) else []
    return "\n".join([*lines, *problems, repr(result.manifest) if isinstance(result, Loaded) else ""])


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        pytest.param(ISSUER % f"secret: {SECRET}", {}, id="written in the manifest"),
        pytest.param(ISSUER % f'secret: "{SECRET}"', {}, id="written in quotes"),
        pytest.param(ISSUER % "secret: ${S}", {"S": SECRET}, id="from the environment"),
        pytest.param(ISSUER % f"secrt: {SECRET}", {}, id="behind a misspelt key"),
        pytest.param(ISSUER % f"password: {SECRET}", {}, id="behind a key that sounds like one"),
        pytest.param(ISSUER % f"secret: [{SECRET}]", {}, id="of the wrong type"),
        pytest.param(ISSUER % f"secret: {SECRET}, audiences: [b]", {}, id="beside a mistake"),
        pytest.param(ISSUER % f"secret: {SECRET}" + "routes: [\n", {}, id="in a file that is not YAML"),
        pytest.param("services: {a: {endpoints: ['${S}'], timeout: ${S}}}", {"S": SECRET}, id="in the wrong place"),
        pytest.param("gateway: {name: '${S}!', listeners: [{port: '${S}'}]}", {"S": SECRET}, id="as a part"),
    ],
)
def test_a_secret_is_never_shown(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    result = load(tmp_path, environ)
    assert SECRET not in _everything(result.sources, result)


def test_a_secret_of_several_lines_is_covered(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "identity:\n  issuers:\n    main:\n      issuer: i\n      audiences: [a]\n      secret: |\n"
        f"        {SECRET}\n        {SECRET}\n      wrong: 1\n"
    )
    result = load(tmp_path, {})
    assert isinstance(result, Refused)
    assert SECRET not in _everything(result.sources, result)
