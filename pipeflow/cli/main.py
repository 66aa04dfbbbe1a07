"""The `pipeflow` command: every subcommand is loaded when it is called, so that asking for the version costs nothing.

What a command answers goes to stdout, everything else to stderr. An error is one line and a documented exit code.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import click

from pipeflow.errors import PipeflowError
from pipeflow.version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("pipeflow.cli.run:run", "Run an app: its handlers, sources and streams, until it is told to stop."),
    "demo": ("pipeflow.cli.demo:demo", "Run a month of real flights through topics, queues and a stream."),
    "queues": ("pipeflow.cli.nouns:queues", "List queues and what is in them."),
    "topics": ("pipeflow.cli.nouns:topics", "List topics, who takes from them, their webhooks and archives."),
    "streams": ("pipeflow.cli.nouns:streams", "List streams, what they hold and what they delivered."),
    "send": ("pipeflow.cli.sending:send", "Send messages to a queue."),
    "publish": ("pipeflow.cli.sending:publish", "Publish messages to a topic."),
    "put": ("pipeflow.cli.sending:put", "Put records into a stream."),
    "flush": ("pipeflow.cli.flush:flush", "Deliver what a stream holds, now."),
    "peek": ("pipeflow.cli.peek:peek", "Look at messages without touching them."),
    "cancel": ("pipeflow.cli.cancel:cancel", "Take a delayed message back by its key."),
    "purge": ("pipeflow.cli.peek:purge", "Delete every message of a queue."),
    "dlq": ("pipeflow.cli.dlq:dlq", "List, show, edit, redrive and discard dead letters, and tell who did."),
    "parked": ("pipeflow.cli.parked:parked", "List, retry and discard what a stream could not deliver."),
    "outbox": ("pipeflow.cli.outbox:outbox", "Show what waits in an outbox; retry and discard what was not sent."),
    "match": ("pipeflow.cli.match:match", "Try a filter policy on an event."),
    "graph": ("pipeflow.cli.graph:graph", "Draw an app: topics, queues, handlers, streams, dead letters."),
    "files": ("pipeflow.cli.files:files", "List and verify the files that a stream delivered."),
    "replay": ("pipeflow.cli.replay:replay", "Publish again what a stream delivered, from its files."),
    "compact": ("pipeflow.cli.compact:compact", "Merge the small files of a stream."),
    "doctor": ("pipeflow.cli.doctor:doctor", "Examine a store and what is around it."),
}
"""Name, where it lives, what it does; in the order of `--help`."""

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed while running
  2    wrong usage
  3    found nothing, with --fail-empty
  4    the configuration was refused before anything ran
  5    drained, but unfinished messages were given back
  74   the store failed
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)
"""

STORE_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class Suggesting(click.Group):
    """Names the nearest command when there is none of that name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{suggestion(args[0], known)}")
        return super().resolve_command(ctx, args)


class Commands(Suggesting):
    """Loads a subcommand when it is called, and turns what it raises into a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        from importlib import import_module

        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read has what it wanted; Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        try:
            code = super().main(
                args, prog_name, complete_var, standalone_mode=False, windows_expand_args=windows_expand_args, **extra
            )
        except BaseException as error:
            sys.exit(exit_code(error))
        sys.exit(code if isinstance(code, int) else 0)


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'billing'?`, or nothing when nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def exit_code(error: BaseException) -> int:
    """Say on stderr what went wrong, and answer the code that the process ends with."""
    cause = leaf(error)
    match cause:
        case SystemExit():
            return cause.code if isinstance(cause.code, int) else int(cause.code is not None)
        case click.exceptions.Exit():
            return cause.exit_code
        case click.UsageError():
            if cause.ctx is not None:
                click.echo(cause.ctx.get_usage(), err=True)
            complain(error, cause.format_message())
            if cause.ctx is not None:
                click.echo(f"try '{cause.ctx.command_path} --help'", err=True)
            return cause.exit_code
        case click.ClickException():
            complain(error, cause.format_message())
            return cause.exit_code
        case KeyboardInterrupt() | click.Abort():
            return 128 + signal.SIGINT
        case PipeflowError():
            complain(error, str(cause))
            return cause.exit_code
        case OSError() if cause.errno is not None:
            place = f"{cause.filename}: " if cause.filename else ""
            complain(error, f"{place}{cause.strerror}")
            return 74 if cause.errno in STORE_FAILURES else 1
    import traceback

    traceback.print_exception(error)
    return 1


def leaf(error: BaseException) -> BaseException:
    """The error that matters: task groups wrap what their tasks raised."""
    while isinstance(error, BaseExceptionGroup):
        ours = [inner for inner in error.exceptions if isinstance(leaf(inner), PipeflowError)]
        error = ours[0] if ours else error.exceptions[0]
    return error


def complain(error: BaseException, text: str) -> None:
    """One line on stderr; with `-v` the traceback before it."""
    if verbosity() > 0:
        import traceback

        traceback.print_exception(error)
    line = " ".join(part.strip() for part in text.splitlines())
    click.echo(click.style("error: ", fg="red", bold=True) + line, err=True, color=colour_wanted(sys.stderr))


_verbosity = 0


def verbosity() -> int:
    """How many times `-v` was given; -1 with `-q`."""
    return _verbosity


def colour_wanted(stream: Any) -> bool:
    """Colour belongs on terminals, unless NO_COLOR says no."""
    return not os.environ.get("NO_COLOR") and bool(getattr(stream, "isatty", lambda: False)())


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"pipeflow {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.option("-v", "--verbose", count=True, help="Show tracebacks; twice: debug messages too.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.option("--no-color", is_flag=True, help="No colour, as with NO_COLOR set.")
def cli(verbose: int, quiet: bool, no_color: bool) -> None:
    """Event-driven pipelines: topics, queues and streams, durable in one file.

    Commands that look at a store work while an app has it open, and when nothing has. Which store: --broker URL, else
    PIPEFLOW_BROKER, else the one of the app in app.py or main.py here.
    """
    import logging

    global _verbosity
    _verbosity = -1 if quiet else verbose
    if no_color:
        os.environ["NO_COLOR"] = "1"
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(_verbosity, logging.DEBUG)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def main() -> NoReturn:
    """The entry point of the `pipeflow` command."""
    cli.main(prog_name="pipeflow")
