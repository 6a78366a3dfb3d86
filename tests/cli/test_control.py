"""Verbs that ask the control plane: a wrong command line is said before it is asked, and who is slow is not away."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.control import ControlConnection, Unanswered, Unreachable
from controlplane.cli.main import build
from serving.address import UnixAddress


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(("apply", "--admin", "nowhere"), "--admin", id="an address of apply"),
        pytest.param(("status", "--admin", "nowhere"), "--admin", id="an address of status"),
        pytest.param(("limits", "blocked", "--admin", "nowhere"), "--admin", id="an address of limits"),
        pytest.param(("limits", "--admin", "unix:/a", "blocked"), "goes behind blocked", id="an address too early"),
        pytest.param(("limits", "--key", "user=ann", "unblock", "a"), "goes behind unblock", id="a key too early"),
        pytest.param(("apply", "--canary", "some"), "expected a number of Envoys", id="a size"),
        pytest.param(("apply", "--canary", "101%"), "at most 100%", id="more than all"),
        pytest.param(("apply", "--watch", "long"), "expected a duration", id="a duration"),
        pytest.param(("apply", "--watch", "2000m"), "at most 86400 s", id="a watch of more than a day"),
        pytest.param(("apply", "--wait", "--timeout", "inf"), "expected a duration", id="a wait for ever"),
        pytest.param(("apply", "--wait", "--timeout", "nan"), "expected a duration", id="a wait of no number"),
        pytest.param(("apply", "--wait", "--timeout", "1e12"), "at most 600 s", id="a wait of ages"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...], problem: str) -> None:
    ended = CliRunner().invoke(build(), arguments, env={"COLUMNS": "200"})
    assert ended.exit_code == 2, ended.output
    assert problem in ended.output


def test_who_is_there_and_slow_is_told_from_who_is_not_there(run_folder: Path) -> None:
    path = run_folder / "admin.sock"
    connection = ControlConnection(UnixAddress(path), timeout_s=0.1)
    with pytest.raises(Unreachable, match="no control plane answers"):
        connection.get("/status")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(Unanswered, match=r"the control plane at .* has not answered within 0.1 s"):
            connection.get("/status")
