"""The life of a process: one event loop, two signals, a graceful end.

async def main(stop: asyncio.Event) -> None:
    ...start...
    async with background(ads.run()):   # a task that must not die
        await stop.wait()
    await server.drain(grace_s=5)

sys.exit(run(main))
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine

import structlog

_log = structlog.get_logger("serving.process")
_PR_SET_PDEATHSIG = 1  # prctl(2)

Main = Callable[[asyncio.Event], Coroutine[None, None, None]]


def run(main: Main) -> int:
    """Runs `main(stop)` on uvloop until it returns; the exit code. SIGTERM and SIGINT set `stop`, a second one cancels.

    An error that nobody caught is logged once, with its traceback, and is exit code 1.
    """
    import uvloop

    try:
        uvloop.run(_until_signal(main))
    except (asyncio.CancelledError, KeyboardInterrupt):
        _log.warning("stopped at once by a second signal")
        return 130
    except OSError as failure:  # an address in use, a folder that cannot be written: the message says it all
        _log.error("cannot go on", error=str(failure))
        return 1
    except Exception:
        _log.exception("unexpected error")
        return 1
    return 0


async def _until_signal(main: Main) -> None:
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))
    loop = asyncio.get_running_loop()

    def signalled(number: signal.Signals) -> None:
        if stop.is_set():
            task.cancel()
        else:
            _log.info("stopping", signal=number.name)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    await task


@contextlib.asynccontextmanager
async def background(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs `work` beside the body and cancels it after. An error in `work` cancels the body and is raised: a process
    whose background work has died must not look healthy."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as failures:
        if len(failures.exceptions) == 1:
            raise failures.exceptions[0] from None
        raise


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies, even by SIGKILL; elsewhere it does nothing.

    To be called in the child; `dying_with_parent` is for a child that runs another program.
    """
    dying_with_parent(os.getppid())()


def dying_with_parent(parent: int) -> Callable[[], None]:
    """A `preexec_fn` that ties the child to `parent`. What it needs is loaded here: a forked child should do little."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return tie
