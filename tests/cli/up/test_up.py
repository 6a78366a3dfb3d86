"""`causeway up` as a person runs it: the quickstart through a real Envoy, a child that dies, the end, every way."""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import free_port

pytestmark = pytest.mark.gateway
QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
CAUSEWAY = (sys.executable, "-c", "from controlplane.cli.main import main; main()")
PATIENCE_S = 30
STARTED = re.compile(r"^(\S+) started \(process (\d+)\)$")


class Up:
    """A running `causeway up`: its lines as they come."""

    def __init__(self, folder: Path, state: Path, port: int) -> None:
        self.port = port
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [*CAUSEWAY, "up", str(folder), "--state", str(state)],
            env={**os.environ, "PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self.lines.append("<end>")
            self._changed.notify_all()

    def until(self, condition: Callable[[list[str]], bool]) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: condition(self.lines) or self.lines[-1:] == ["<end>"], PATIENCE_S)
        assert done, self.text
        assert condition(self.lines), self.text

    def until_ready(self) -> None:
        self.until(lambda lines: any("The gateway answers on" in line for line in lines))
        assert f"The gateway answers on http://127.0.0.1:{self.port}" in self.lines

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def processes(self) -> dict[str, int]:
        """The newest process of each child."""
        return {found[1]: int(found[2]) for line in self.lines if (found := STARTED.match(line))}

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as failure:
            return failure.code, failure.read().decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(QUICKSTART, tmp_path / "quickstart"))


@contextlib.contextmanager
def running(folder: Path, tmp_path: Path) -> Iterator[Up]:
    up = Up(folder, tmp_path / "state", free_port())
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
            try:
                up.process.wait(10)
            finally:
                up.process.kill()


def all_gone(descriptors: list[int], within_s: float) -> bool:
    ends = time.monotonic() + within_s
    left = list(descriptors)
    while left and (wait_s := ends - time.monotonic()) > 0:
        ready, _, _ = select.select(left, [], [], wait_s)
        left = [one for one in left if one not in ready]
    return not left


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    tmp_path = tmp_path_factory.mktemp("up")
    folder = Path(shutil.copytree(QUICKSTART, tmp_path / "quickstart"))
    with running(folder, tmp_path) as up:
        up.until_ready()
        yield up
        up.process.terminate()
        assert up.process.wait(5) == 0


def test_the_quickstart_answers_and_says_what_to_try(quickstart: Up) -> None:
    assert quickstart.get("/hello") == (200, '{"greeting": "Hello, world!"}\n')

    def commands(lines: list[str]) -> list[str]:
        return [line for line in lines if line.startswith("  ") and "curl" in line]

    quickstart.until(lambda lines: len(commands(lines)) == 3)
    assert all(f"http://127.0.0.1:{quickstart.port}/" in command for command in commands(quickstart.lines))
    assert not any("{" in command.replace("%{http_code}", "") for command in commands(quickstart.lines))


def test_a_dead_service_is_named_and_restarted_while_the_rest_goes_on(quickstart: Up) -> None:
    before = quickstart.processes["orders"]
    os.kill(before, signal.SIGKILL)
    quickstart.until(lambda lines: any("orders was killed by SIGKILL; restarting in" in line for line in lines))
    assert quickstart.get("/hello")[0] == 200
    quickstart.until(lambda lines: quickstart.processes["orders"] != before)


def test_traffic_goes_on_while_the_control_plane_is_dead_and_comes_back(quickstart: Up) -> None:
    before = quickstart.processes["control-plane"]
    os.kill(before, signal.SIGKILL)
    quickstart.until(lambda lines: any("control-plane was killed by SIGKILL" in line for line in lines))
    assert quickstart.get("/hello")[0] == 200
    quickstart.until(lambda lines: quickstart.processes["control-plane"] != before)
    assert quickstart.get("/hello")[0] == 200


def test_a_second_one_for_the_same_folder_is_refused(quickstart: Up, tmp_path: Path) -> None:
    state = quickstart.process.args[-1]  # type: ignore[index]
    second = subprocess.run(
        [*CAUSEWAY, "up", str(QUICKSTART), "--state", state],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert second.returncode == 1
    assert f"already running (process {quickstart.process.pid})" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_leaves_nothing_running_within_five_seconds(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with running(folder, tmp_path) as up:
        up.until_ready()
        left = [os.pidfd_open(process) for process in up.processes.values()]
        assert {"control-plane", "envoy", "hello", "orders"} <= up.processes.keys()
        up.process.send_signal(number)
        assert all_gone(left, 5)
        assert up.process.wait(5) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        with socket.socket() as one:
            assert one.connect_ex(("127.0.0.1", up.port)) != 0


def test_a_taken_port_is_named_with_the_fix_and_nothing_is_started(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # Envoy would share it without a word
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = subprocess.run(
            [*CAUSEWAY, "up", str(folder), "--state", str(tmp_path / "state")],
            env={**os.environ, "PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 1
    assert f"error: port {port} (0.0.0.0:{port}) is in use by another program" in ended.stderr
    assert "gateway.listeners" in ended.stderr
    assert "started" not in ended.stdout


def test_manifests_with_problems_are_listed_and_nothing_is_started(folder: Path, tmp_path: Path) -> None:
    (folder / "orders.yaml").write_text("routes:\n  - {path: /x, servic: orders}\n")
    ended = subprocess.run(
        [*CAUSEWAY, "up", str(folder), "--state", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert "orders.yaml:2:" in ended.stderr
    assert "started" not in ended.stdout
