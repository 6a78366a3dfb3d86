"""The parts of `causeway up` that need no process: places, demo.toml, ports, the control plane's status, the screen."""

import io
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from controlplane.cli.up.demo import Demo, DemoError, Try, read_demo
from controlplane.cli.up.envoy import EnvoyNotFoundError, find_envoy
from controlplane.cli.up.places import AlreadyRunningError, lock, places
from controlplane.cli.up.ports import PortTakenError, refuse_taken_ports, why_taken
from controlplane.cli.up.screen import LiveScreen, PlainScreen, spoken
from controlplane.cli.up.status import ServiceRow, Summary, summary
from controlplane.cli.up.supervisor import Child, Event, Running, State
from serving.address import SUN_PATH_BYTES, TcpAddress

LOCAL = TcpAddress("127.0.0.1", 8080)


def test_each_folder_has_its_own_place_of_its_owner_alone(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    for name in ("one", "two"):
        (tmp_path / name / "edge").mkdir(parents=True)
    one, two = (places(tmp_path / name / "edge", state=None, environ=environ) for name in ("one", "two"))
    assert one.state != two.state
    assert one.state.parent == tmp_path / "state" / "causeway"
    for folder in (one.state, one.sockets, one.logs):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert one == places(tmp_path / "one" / ".." / "one" / "edge", state=None, environ=environ)


def test_sockets_move_to_a_short_folder_when_the_state_folder_is_deep(tmp_path: Path) -> None:
    found = places(tmp_path, state=tmp_path / ("d" * 100), environ={})
    try:
        assert found.state.name == "d" * 100
        assert len(os.fsencode(found.socket("control-plane").path)) <= SUN_PATH_BYTES
    finally:
        found.sockets.rmdir()


def test_a_state_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="not a folder of yours"):
        places(tmp_path, state=tmp_path / "state", environ={})


def test_one_supervisor_runs_per_folder_and_the_second_is_told_the_first(tmp_path: Path) -> None:
    found = places(tmp_path, state=tmp_path / "state", environ={})
    held = lock(found)
    with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}"):
        lock(found)
    os.close(held)
    os.close(lock(found))


def test_a_folder_without_demo_toml_has_nothing_to_run(tmp_path: Path) -> None:
    assert read_demo(tmp_path) == Demo()


def test_a_demo_service_gets_its_port_or_a_free_one_and_no_two_the_same(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        (tmp_path / "demo.toml").write_text(
            f'[services.a-b]\nrun = ["python", "x.py"]\nport = {taken}\n'
            f'[services.c]\nrun = ["./c"]\nport = {taken}\n[[try]]\ntext = "t"\ncommand = "curl {{gateway}}"\n'
        )
        demo = read_demo(tmp_path)
    ports = {service.port for service in demo.services}
    assert len(ports) == 2
    assert taken not in ports
    assert demo.services[0].variable == "A_B_ADDR"
    assert demo.services[0].address == f"127.0.0.1:{demo.services[0].port}"
    assert Path(demo.services[0].run[0]).is_absolute()
    assert demo.tries == (Try(text="t", command="curl {gateway}"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("x = ", "demo.toml", id="no TOML"),
        pytest.param("[service.a]\nrun = ['x']", "unknown: service", id="a wrong table"),
        pytest.param("[services.A]\nrun = ['x']", "lower-case", id="a name that is no name"),
        pytest.param("[services.a]\nrun = 'x y'", "expected run", id="a command in one string"),
        pytest.param("[services.a]\nrun = ['x', 1]", "expected text", id="a number as an argument"),
        pytest.param("[services.a]\nrun = ['x']\nport = 70000", "expected run", id="no port"),
        pytest.param("[[try]]\ntext = 't'", "expected .services.NAME.", id="a try without a command"),
    ],
)
def test_a_wrong_demo_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "demo.toml").write_text(text)
    with pytest.raises(DemoError, match=problem) as raised:
        read_demo(tmp_path)
    assert str(tmp_path / "demo.toml") in str(raised.value)


def test_a_taken_port_is_named_with_the_fix_and_a_free_one_is_not() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Envoy does
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} .* in use by another program.*gateway.listeners"):
            refuse_taken_ports([TcpAddress("0.0.0.0", port)])
    assert why_taken(TcpAddress("0.0.0.0", port)) is None


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    assert "cannot be listened on" in (why_taken(TcpAddress("192.0.2.1", 9)) or "")


def test_a_chosen_envoy_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAUSEWAY_ENVOY", "/no/envoy")
    with pytest.raises(EnvoyNotFoundError, match="/no/envoy"):
        find_envoy()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({}, Summary(), id="nothing known"),
        pytest.param([1, 2], Summary(), id="another shape"),
        pytest.param({"routes": 3}, Summary(routes=3), id="a number of routes"),
        pytest.param({"routes": [{}, {}]}, Summary(routes=2), id="the routes themselves"),
        pytest.param(
            {"services": [{"name": "a", "health": "2/2", "circuit": {"state": "OPEN", "retest_in_s": 4}}]},
            Summary(services=(ServiceRow(name="a", health="2/2", circuit="OPEN", retest_in_s=4.0),)),
            id="a service with its circuit",
        ),
        pytest.param(
            {"services": [7, {"name": "a", "circuit": None}]},
            Summary(services=(ServiceRow(name="", health="", circuit=""), ServiceRow(name="a", health="", circuit=""))),
            id="services of another shape",
        ),
        pytest.param(
            {"reload": {"at": "12:00", "problems": ["x"]}},
            Summary(reloaded_at="12:00", problems=("x",)),
            id="a reload with problems",
        ),
    ],
)
def test_the_status_is_read_as_far_as_it_is_there(document: object, expected: Summary) -> None:
    assert summary(document) == expected


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain text", "plain text"),
        ('{"event": "cannot go on", "error": "port in use"}', "cannot go on: port in use"),
        (
            '{"event": "unexpected error", "exception": "Traceback\\n  x\\nKeyError: 1"}',
            "unexpected error: KeyError: 1",
        ),
        ('{"event": "listening"}', "listening"),
        ("[1]", "[1]"),
    ],
)
def test_a_log_line_is_shown_as_a_person_would_say_it(line: str, shown: str) -> None:
    assert spoken(line) == shown


def test_plain_lines_say_what_changed_once() -> None:
    lines: list[str] = []
    screen = PlainScreen(lines.append, is_verbose=False)
    row = ServiceRow(name="orders", health="1/1 endpoints", circuit="CLOSED")
    first = Summary(routes=4, services=(row,), reloaded_at="1")
    opened = ServiceRow(name="orders", health="0/1 endpoints", circuit="OPEN", retest_in_s=9)
    screen.line("envoy", "noise")
    for seen in (None, first, first, Summary(routes=4, services=(opened,), reloaded_at="1")):
        screen.show({}, seen)
    screen.show({}, Summary(routes=4, services=(opened,), reloaded_at="1", problems=("a.yaml:1:1: bad",)))
    screen.tell(Event(child="x", text="x died", is_bad=True, lines=("why",)))
    assert lines == [
        "4 routes are served",
        "service orders: 1/1 endpoints, circuit closed",
        "service orders: 0/1 endpoints, circuit open",
        "the manifests have problems, what was served before stays:",
        "  a.yaml:1:1: bad",
        "x died",
        "  x | why",
    ]


def test_the_live_screen_shows_processes_services_and_what_to_try() -> None:
    out = io.StringIO()
    screen = LiveScreen(Console(file=out, force_terminal=True, width=160, height=50), clock=lambda: 12.0)
    child = Child(name="envoy", argv=(), environ={}, folder=Path())
    screen.ready([TcpAddress("0.0.0.0", 8080)], [Try(text="a public route", command="curl [x]")])
    screen.tell(Event(child="envoy", text="envoy was killed by SIGSEGV", is_bad=True, lines=("[last] words",)))
    rows = (ServiceRow(name="orders", health="0/1 endpoints", circuit="OPEN", retest_in_s=9),)
    screen.show({"envoy": Running(child, state=State.WAITING, restarts=2)}, Summary(routes=4, services=rows))
    screen.close()
    shown = out.getvalue()
    for text in (
        "http://127.0.0.1:8080",
        "curl [x]",
        "waiting to restart",
        "4 routes",
        "open, tested again in 9 s",
        "envoy was killed by SIGSEGV",
        "[last] words",
    ):
        assert text in shown
