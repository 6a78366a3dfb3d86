"""serving.process in real processes: signals, exit codes, and children that go when their parent is killed."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from serving.process import background


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


GRACEFUL = """
    import asyncio, sys
    from serving.logs import configure_logs
    from serving.process import run
    configure_logs("testing")

    async def main(stop):
        print("ready", type(asyncio.get_running_loop()).__module__, flush=True)
        await stop.wait()
        print("draining", flush=True)
        await asyncio.{end}
        print("drained", flush=True)

    sys.exit(run(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_main_drain_and_is_exit_code_0(number: signal.Signals) -> None:
    process = start(GRACEFUL.format(end="sleep(0)"))
    assert line(process) == "ready uvloop"
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert (out.split(), process.returncode) == (["draining", "drained"], 0)


def test_a_second_signal_ends_at_once() -> None:
    process = start(GRACEFUL.format(end="Event().wait()"))
    assert line(process) == "ready uvloop"
    process.terminate()
    assert line(process) == "draining"
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 130


@pytest.mark.parametrize("error", ["OSError(98, 'Address already in use')", "RuntimeError('broken')"])
def test_an_error_nobody_caught_is_logged_and_is_exit_code_1(error: str) -> None:
    process = start(f"""
        import sys
        from serving.process import run
        async def main(stop):
            raise {error}
        sys.exit(run(main))
    """)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert error.split("'")[1] in out + err


async def test_background_work_that_fails_ends_the_body() -> None:
    async def fail() -> None:
        raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        async with background(fail()):
            await asyncio.Event().wait()


async def test_background_work_is_cancelled_after_the_body() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background(work()):
        await asyncio.sleep(0)
    assert ended.is_set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_dies_with_its_parent_even_by_sigkill() -> None:
    parent = start("""
        import os, subprocess, sys
        code = "import time; from serving.process import die_with_parent; die_with_parent(); "
        code += "print('up', flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        print(child.pid, flush=True)
        child.wait()
    """)
    child = int(line(parent))
    gone = os.pidfd_open(child)
    parent.kill()
    parent.communicate()
    assert select.select([gone], [], [], 5)[0], "the child is still running"
    assert not Path(f"/proc/{child}/fd").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()
