"""Partition keys from expressions that need all of jq: evaluated in a process of its own, many records at a time.

jq may loop for ever, take all memory or fall over a record; none of that reaches the app. The process has no
environment, opens nothing, and is bounded in memory and time (`jq_worker`). Where it dies or takes too long, the
records that it has answered keep their answers, the one in its hands is tried alone once more and then fails alone.
"""

from __future__ import annotations

import importlib.util
import logging
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType

import anyio
import msgspec
from anyio import BrokenResourceError, CancelScope, EndOfStream, IncompleteRead
from anyio.abc import ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from pipeflow.clock import Clock, Signal
from pipeflow.engine.plan import Place, Placing
from pipeflow.errors import ConfigurationError, MissingExtra, RefusedError
from pipeflow.queries import QueryError, key_text
from pipeflow.queries.words import forbidden_word
from pipeflow.specs import KeyQuery

logger = logging.getLogger("pipeflow")

BATCH = 256
"""Records that are sent to jq at once."""

BATCH_BYTES = 1 << 20
BATCH_SECONDS = 1.0
"""Seconds for one batch."""

ALONE_SECONDS = 5.0
"""For one record alone: the bound on processor time ends it earlier, and a busy machine must not fail a good one."""

STARTING_SECONDS = 30.0
AGAIN = 1.0
"""Seconds after which a process that could not be started is tried again."""

ANSWER = 1 << 17
"""Bytes of one answer at most; the process itself takes less."""

_LENGTH = struct.Struct(">I")
_document = msgspec.json.Decoder(msgspec.Raw).decode
_answered = msgspec.json.Decoder(dict[str, object]).decode
_BROKEN = (BrokenResourceError, EndOfStream, IncompleteRead, anyio.ClosedResourceError, OSError)


def placing(keys: tuple[KeyQuery, ...], partition: Callable[[list[str]], str], unsupported: str) -> Placing:
    """What opens the process and places records by its answers. `unsupported`: why jq is needed, and where.

    MissingExtra: jq is not installed. ConfigurationError: jq does not take the expressions, or they ask for more than
    the record.
    """
    spec = importlib.util.find_spec("jq")
    if spec is None or spec.origin is None:
        raise MissingExtra(f"{unsupported}; an expression of full jq", "jq")
    for each in keys:
        found = forbidden_word(each.query)
        if found is not None:
            word, column = found
            raise ConfigurationError(
                f"{unsupported}; in full jq: {each.query[:80]!r}: column {column}: {word!r} is about more than the "
                "record; partition by what is in it (and write a key of that name in quotes)"
            )
    program = _program(keys)
    command = (
        sys.executable,
        "-I",
        "-S",
        "-B",
        str(Path(__file__).with_name("jq_worker.py")),
        str(Path(spec.origin).parent),
    )
    wrong = _checked(command, program)
    if wrong:
        raise ConfigurationError(f"{unsupported}; and jq does not take it: {' '.join(wrong.split())[:500]}")

    @asynccontextmanager
    async def opened(clock: Clock) -> AsyncIterator[Place]:
        async with Jq(command, program, clock) as process:

            async def place(bodies: Sequence[bytes]) -> list[str | Exception]:
                return [_placed(answer, keys, partition) for answer in await process.answers(bodies)]

            yield place

    return opened


class Jq:
    """jq over one expression. Enter it, ask for answers, leave it: then the process is gone."""

    def __init__(self, command: Sequence[str], program: str, clock: Clock) -> None:
        self._command = command
        self._program = program.encode()
        self._clock = clock
        self._process: Process | None = None
        self._stdin: ByteSendStream
        self._answers: BufferedByteReceiveStream

    async def __aenter__(self) -> Jq:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def answers(self, bodies: Sequence[bytes]) -> list[bytes | Exception]:
        """What jq answers for each record, as JSON, or why it does not."""
        wrong = [_wrong(body) for body in bodies]
        asked = [body for body, error in zip(bodies, wrong, strict=True) if error is None]
        answers: list[bytes | Exception] = []
        for batch in _batches(asked):
            answers += await self._batch(batch)
        found = iter(answers)
        return [next(found) if error is None else error for error in wrong]

    async def _batch(self, batch: list[bytes]) -> list[bytes | Exception]:
        done: list[bytes | Exception] = []
        while len(done) < len(batch):
            done += await self._asked(batch[len(done) :], BATCH_SECONDS)
            if len(done) < len(batch):
                alone = await self._asked(batch[len(done) : len(done) + 1], ALONE_SECONDS)
                done += alone or [QueryError("jq took too much time or memory for this record alone")]
        return done

    async def _asked(self, bodies: Sequence[bytes], seconds: float) -> list[bytes | Exception]:
        """The answers that came in time; fewer than asked for when the process died or was ended."""
        answers: list[bytes | Exception] = []
        await self._started()
        try:
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send, bodies)
                    try:
                        while len(answers) < len(bodies):
                            answers.append(_read(await self._receive()))
                    except _BROKEN as error:
                        logger.debug("jq ended over a record: %r", error)
                        tasks.cancel_scope.cancel()
        finally:
            if len(answers) < len(bodies):
                await self._stop()
        return answers

    async def _send(self, bodies: Sequence[bytes]) -> None:
        frames = [_LENGTH.pack(len(bodies)), *(part for body in bodies for part in (_LENGTH.pack(len(body)), body))]
        try:
            await self._stdin.send(b"".join(frames))
        except _BROKEN as error:
            logger.debug("jq ended before it had read its records: %r", error)  # what it answered is read all the same

    async def _receive(self) -> bytes:
        (length,) = _LENGTH.unpack(await self._answers.receive_exactly(_LENGTH.size))
        return await self._answers.receive_exactly(min(length, ANSWER)) if length else b""

    async def _started(self) -> None:
        while self._process is None:
            try:
                with anyio.fail_after(STARTING_SECONDS):
                    await self._start()
            except (*_BROKEN, TimeoutError) as error:
                logger.warning("jq could not be started, again in %.0f s: %r", AGAIN, error)
                await self._stop()
                await self._clock.wait(Signal(), self._clock.now() + AGAIN)

    async def _start(self) -> None:
        self._process = await anyio.open_process(self._command, stderr=subprocess.DEVNULL, env={}, cwd="/")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._answers = BufferedByteReceiveStream(self._process.stdout)
        await self._stdin.send(_LENGTH.pack(len(self._program)) + self._program)
        await self._receive()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Shielded: whoever is cancelled still ends its process, and that does not take long.
        with CancelScope(shield=True):
            async with AsyncExitStack() as stack:
                stack.push_async_callback(process.aclose)
                if process.returncode is None:
                    process.kill()
                await process.wait()


def _wrong(body: bytes) -> QueryError | None:
    """Why the record is not one JSON document; None when it is."""
    try:
        _document(body)
        body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return QueryError(f"the record is not one JSON document: {error}")
    return None


def _batches(bodies: Sequence[bytes]) -> list[list[bytes]]:
    batches: list[list[bytes]] = []
    room = size = 0
    for body in bodies:
        if not room or size + len(body) > BATCH_BYTES:
            batches.append([])
            room, size = BATCH, 0
        batches[-1].append(body)
        room, size = room - 1, size + len(body)
    return batches


def _program(keys: tuple[KeyQuery, ...]) -> str:
    # Each on lines of its own, so that a comment in it ends with it.
    entries = [f"{msgspec.json.encode(each.key).decode()}: (\n{each.query}\n)" for each in keys]
    return f"{{{', '.join(entries)}}} | tojson"


def _checked(command: Sequence[str], program: str) -> str:
    """What jq says is wrong with the program; empty when it takes it."""
    text = program.encode()
    try:
        ran = subprocess.run(
            command,
            input=_LENGTH.pack(len(text)) + text,
            capture_output=True,
            env={},
            cwd="/",
            timeout=STARTING_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not compile within {STARTING_SECONDS:.0f} s"
    if len(ran.stdout) < _LENGTH.size:
        return f"its process ended with {ran.returncode}: {ran.stderr.decode(errors='replace').strip()[-300:]}"
    return ran.stdout[_LENGTH.size :].decode(errors="replace")


def _read(frame: bytes) -> bytes | Exception:
    return frame[1:] if frame[:1] == b"+" else QueryError(frame[1:].decode(errors="replace"))


def _placed(
    answer: bytes | Exception, keys: tuple[KeyQuery, ...], partition: Callable[[list[str]], str]
) -> str | Exception:
    if isinstance(answer, Exception):
        return answer
    try:
        values = _answered(answer)
        return partition([key_text(values.get(each.key), each.key or each.query) for each in keys])
    except (QueryError, RefusedError, msgspec.DecodeError) as error:
        return error
