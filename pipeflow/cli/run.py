"""`pipeflow run`: an app with its handlers, sources and streams, until a signal; what it leaves says the exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Collection
from importlib.util import find_spec

import anyio
import click
from anyio import CancelScope

from pipeflow.app import App
from pipeflow.cli.loading import load_app
from pipeflow.cli.main import leaf
from pipeflow.cli.output import count, say
from pipeflow.cli.units import duration
from pipeflow.engine.runtime import Runtime

GIVEN_BACK = 5

LINGER = 2.0
"""Seconds that the threads of sync handlers get to end by themselves when the app is closed."""

OVERTIME = 30.0
"""Seconds after the grace in which everything must have been given back and closed."""


class Ending:
    """How a run came to its end."""

    def __init__(self) -> None:
        self.given_back = 0
        self.hurried: int | None = None
        """The signal that said: now."""
        self.failed: int | None = None
        """The code of the error that ended it."""
        self._timer: threading.Timer | None = None

    @property
    def exit_code(self) -> int:
        """0 drained; 5 messages were given back; 128 and the signal's number when the drain was cut short; or the
        error's."""
        if self.failed is not None:
            return self.failed
        if self.hurried is not None:
            return 128 + self.hurried
        return GIVEN_BACK if self.given_back else 0

    def end_within(self, seconds: float, code: int) -> None:
        """End the process then, if it has not ended by itself: nobody can end what hangs, and Python waits for it."""
        self.end_by_itself()
        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), _leave, (code,))
        self._timer.daemon = True
        self._timer.start()

    def end_by_itself(self) -> None:
        """No end is set any more."""
        if self._timer is not None:
            self._timer.cancel()


def _leave(code: int) -> None:
    say("left handlers behind that went on after they were told to stop")
    sys.stdout.flush()
    os._exit(code)


async def serve(
    app: App, broker: str | None, only: Collection[str] | None, grace: float | None, ending: Ending
) -> None:
    """Run the app until SIGTERM or SIGINT, then drain; a second signal stops now."""
    starting = CancelScope()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            running: list[Runtime] = []
            group.start_soon(_heed, signals, running, starting, ending)
            with starting:
                async with app.running(broker=broker, only=only, grace=grace) as runtime:
                    running.append(runtime)
                    say(banner(app, runtime, only))
                    await runtime.stopped()
                    say(f"{app.name}: draining, at most {runtime.grace:g} s; a second signal stops now")
                ending.given_back = runtime.given_back
            group.cancel_scope.cancel()
    ending.end_by_itself()


async def _heed(
    signals: AsyncIterator[signal.Signals], running: list[Runtime], starting: CancelScope, ending: Ending
) -> None:
    told = False
    async for number in signals:
        if not running:
            # Nothing runs yet, so there is nothing to drain.
            ending.hurried = number
            starting.cancel()
            return
        if told:
            ending.hurried = number
        # Handlers that go on when they are cancelled would hold the program for ever.
        ending.end_within(OVERTIME + (0.0 if told else running[0].grace), ending.exit_code or GIVEN_BACK)
        told = True
        running[0].stop()


def banner(app: App, runtime: Runtime, only: Collection[str] | None) -> str:
    """`shop: 3 handlers, 1 stream at sqlite:///shop.db; Ctrl-C drains`."""
    parts = [
        f"{count(number)} {noun}{'' if number == 1 else 's'}"
        for number, noun in (
            (len(runtime.consumers), "handler"),
            (len(runtime.sources), "source"),
            (len(runtime.deliveries), "stream"),
        )
        if number
    ]
    what = ", ".join(parts) or "nothing to handle"
    chosen = f" (only {', '.join(only)})" if only else ""
    return f"{app.name}: {what}{chosen} at {runtime.store.url}; Ctrl-C drains"


@click.command()
@click.argument("target", required=False, metavar="[MODULE:APP]")
@click.option("--only", multiple=True, metavar="NAME", help="A queue, stream or source to run here; may be repeated.")
@click.option("--broker", metavar="URL", help="Another store than the app's; also PIPEFLOW_BROKER.")
@click.option("--grace", type=duration, metavar="DURATION", help="How long handlers may finish when told to stop.")
@click.option("--factory", is_flag=True, help="Call the attribute to make the app.")
def run(target: str | None, only: tuple[str, ...], broker: str | None, grace: float | None, factory: bool) -> int:
    """Run an app: its handlers, sources and streams, until SIGTERM or SIGINT.

    Without MODULE:APP, the app in app.py or main.py here. The first signal drains: intake stops, handlers get --grace
    to finish, what is unfinished is given back without costing an attempt (exit code 5). A second signal stops now.
    """
    app = load_app(target, factory=factory)
    faster = {"use_uvloop": find_spec("uvloop") is not None and os.name == "posix"}
    ending = Ending()
    try:
        anyio.run(serve, app, broker, only or None, grace, ending, backend_options=faster)
    except BaseException as error:
        ending.failed = getattr(leaf(error), "exit_code", 1)
        raise
    finally:
        if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
            ending.end_within(LINGER, ending.exit_code)
    if ending.given_back:
        say(f"{app.name}: {count(ending.given_back)} messages given back; they are handled at the next start")
    return ending.exit_code
