"""serving.settings: flags over environment over defaults, and every problem at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from serving.address import Address, TcpAddress, UnixAddress
from serving.secret import Secret
from serving.settings import SettingsError, command, load, setting


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    listen: tuple[Address, ...] = setting("127.0.0.1:1,unix:/x", help="Where.")
    admin: Address | None = setting(None, help="Admin.")
    peer: Address | None = setting(None, variable="CAUSEWAY_OTHER_PEER", help="Peer.")
    more: tuple[Address, ...] = setting((), help="More.")
    redis_url: Secret | None = setting(None, env=("REDIS_URL",), help="Store.")
    workers: int = setting(1, minimum=1, maximum=4, help="Processes.")
    wait_s: float = setting(0.5, help="Seconds.")
    state: Path | None = setting(None, help="Folder.")
    verbose: bool = setting(False, help="More.")
    colour: Colour = setting(Colour.RED, help="Colour.")
    mode: Literal["a", "b"] = setting("a", help="Mode.")
    name: str = setting("n", help="Name.")

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("name and colour do not go together")


DEFAULTS = Settings(
    listen=(TcpAddress("127.0.0.1", 1), UnixAddress(Path("/x"))),
    workers=1,
    wait_s=0.5,
    verbose=False,
    colour=Colour.RED,
    mode="a",
    name="n",
)


@pytest.mark.parametrize(
    ("flags", "environ", "changes"),
    [
        pytest.param({}, {}, {}, id="nothing given: the defaults"),
        pytest.param({}, {"CAUSEWAY_WORKERS": "2"}, {"workers": 2}, id="the environment over the default"),
        pytest.param({"workers": "3"}, {"CAUSEWAY_WORKERS": "2"}, {"workers": 3}, id="the flag over the environment"),
        pytest.param({"workers": None}, {"CAUSEWAY_WORKERS": ""}, {}, id="empty is not given"),
        pytest.param({}, {"REDIS_URL": "r"}, {"redis_url": Secret("r")}, id="a further variable"),
        pytest.param(
            {}, {"REDIS_URL": "r", "CAUSEWAY_REDIS_URL": "c"}, {"redis_url": Secret("c")}, id="our own variable first"
        ),
        pytest.param({"verbose": "yes"}, {}, {"verbose": True}, id="a switch by word"),
        pytest.param({"colour": "blue", "mode": "b"}, {}, {"colour": Colour.BLUE, "mode": "b"}, id="choices"),
        pytest.param({"state": "/s", "wait_s": "2"}, {}, {"state": Path("/s"), "wait_s": 2.0}, id="a path, a number"),
        pytest.param(
            {"listen": ["a:1", "b:2"]}, {}, {"listen": (TcpAddress("a", 1), TcpAddress("b", 2))}, id="a repeated flag"
        ),
        pytest.param(
            {}, {"CAUSEWAY_LISTEN": "a:1, b:2"}, {"listen": (TcpAddress("a", 1), TcpAddress("b", 2))}, id="a list"
        ),
        pytest.param(
            {},
            {"CAUSEWAY_OTHER_PEER": "unix:/p", "CAUSEWAY_PEER": "unix:/other"},
            {"peer": UnixAddress(Path("/p"))},
            id="a variable of another name",
        ),
        pytest.param({"more": [""]}, {}, {"more": ()}, id="a list that may be empty"),
        pytest.param({"admin": "unix:/a"}, {}, {"admin": UnixAddress(Path("/a"))}, id="an optional address"),
    ],
)
def test_settings_come_from_flags_then_environment_then_defaults(
    flags: Mapping[str, str | Sequence[str] | None], environ: Mapping[str, str], changes: Mapping[str, object]
) -> None:
    assert load(Settings, flags=flags, environ=environ) == dataclasses.replace(DEFAULTS, **changes)


def test_a_value_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://x\n")
    loaded = load(Settings, flags={}, environ={"CAUSEWAY_REDIS_URL_FILE": str(tmp_path / "url")})
    assert loaded.redis_url == Secret("redis://x")


@pytest.mark.parametrize("variable", ["CAUSEWAY_REDIS_URL_FILE", "REDIS_URL_FILE"])
def test_a_file_that_is_no_text_is_a_problem_like_any_other(tmp_path: Path, variable: str) -> None:
    (tmp_path / "url").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=f"^{variable}: cannot read it: {tmp_path}/url is not UTF-8$"):
        load(Settings, flags={}, environ={variable: str(tmp_path / "url")})


@pytest.mark.parametrize("given", ["", ",", " , "])
def test_an_empty_list_is_refused_where_one_is_needed(given: str) -> None:
    with pytest.raises(SettingsError, match=r"^--listen: "):
        load(Settings, flags={"listen": [given]}, environ={})


def test_every_problem_is_reported_at_once_with_its_source(tmp_path: Path) -> None:
    flags = {"workers": "5", "colour": "green", "listen": "nowhere", "wait_s": "soon"}
    environ = {
        "CAUSEWAY_VERBOSE": "perhaps",
        "CAUSEWAY_ADMIN": "unix:x",
        "CAUSEWAY_REDIS_URL_FILE": str(tmp_path / "none"),
    }
    with pytest.raises(SettingsError) as raised:
        load(Settings, flags=flags, environ=environ)
    assert list(raised.value.problems) == [
        '--listen: "nowhere": expected host:port or unix:/path',
        'CAUSEWAY_ADMIN: "unix:x": a unix address needs an absolute path: unix:/run/causeway/xds.sock',
        "CAUSEWAY_REDIS_URL_FILE: cannot read it: No such file or directory",
        "--workers: 5 is more than 4",
        '--wait-s: "soon" is not a number',
        'CAUSEWAY_VERBOSE: "perhaps": expected one of 0, 1, false, no, off, on, true, yes',
        '--colour: "green": expected one of blue, red',
    ]


@pytest.mark.parametrize(
    ("given", "problem"), [("0", "less than 1"), ("5", "more than 4"), ("x", "not a whole number")]
)
def test_a_number_outside_its_range_is_refused(given: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load(Settings, flags={"workers": given}, environ={})


def test_what_the_class_checks_across_fields_is_a_problem_too() -> None:
    with pytest.raises(SettingsError, match="do not go together"):
        load(Settings, flags={"name": "bad"}, environ={})


def test_a_setting_without_default_is_required() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Needs:
        node_id: str = setting(help="Who.")

    with pytest.raises(SettingsError, match="--node-id or CAUSEWAY_NODE_ID is required"):
        load(Needs, flags={}, environ={})


def test_a_secret_is_never_taken_from_a_flag() -> None:
    assert load(Settings, flags={"redis_url": "r"}, environ={}).redis_url is None


def verb() -> tuple[typer.Typer, list[Settings]]:
    ran: list[Settings] = []

    def run(settings: Settings) -> None:
        """Runs it."""
        ran.append(settings)

    app = typer.Typer()
    app.command("go")(command(Settings, run))
    app.command("other")(lambda: None)
    return app, ran


def test_a_command_has_one_option_per_setting_and_none_for_a_secret() -> None:
    app, ran = verb()
    result = CliRunner().invoke(app, ["go", "--workers", "3", "--listen", "a:1", "--listen", "b:2"], env={})
    assert result.exit_code == 0, result.output
    assert ran == [dataclasses.replace(DEFAULTS, workers=3, listen=(TcpAddress("a", 1), TcpAddress("b", 2)))]
    shown = CliRunner().invoke(app, ["go", "--help"], env={"COLUMNS": "200"}).output
    assert "Runs it." in shown
    assert "CAUSEWAY_WORKERS" in shown
    assert "--redis-url" not in shown


def test_a_command_prints_every_problem_and_exits_with_2() -> None:
    app, ran = verb()
    result = CliRunner().invoke(app, ["go", "--workers", "9", "--mode", "c"], env={})
    assert result.exit_code == 2
    assert "--workers: 9 is more than 4" in result.output
    assert "--mode" in result.output
    assert ran == []
