"""The program of the process in which jq runs: one expression, records in, answers out, nothing else within reach.

Started as a script, without an environment and without this package: `jq_worker.py DIRECTORY [check]`, with the
directory that holds the module `jq`. Frames are a big-endian length and that many bytes. First comes the expression,
and is answered with what is wrong with it, or with nothing; then batches: how many records, and each of them. Every
record is answered by itself as soon as it is done, `+` and the JSON of its keys or `-` and the reason, so that whoever
reads knows at which one this process died.
"""

from __future__ import annotations

import math
import os
import resource
import struct
import sys
from collections.abc import Iterator

MEMORY = 256 << 20
"""Bytes of address space."""

CPU = 1
"""Seconds of processor time for one batch, about: the limit counts in whole ones."""

ANSWER = 64 << 10
"""Characters of an answer; a partition is far shorter."""


def main() -> None:
    """Answer until stdin ends."""
    sys.path.append(sys.argv[1])
    import jq

    _confine()
    text = _read(_length()).decode()
    try:
        program = jq.compile(text)
        program.input_text("null")
    except ValueError as error:
        _write(str(error).encode())
        return
    _write(b"")
    while True:
        count = _length()
        _allow()
        for _ in range(count):
            _write(_answer(program, _read(_length())))


def _answer(program: object, record: bytes) -> bytes:
    try:
        found = list(_first_two(iter(program.input_text(record.decode()))))  # type: ignore[attr-defined]  # no types
    except ValueError as error:
        return b"-" + str(error).encode("utf-8", "replace")[:1000]
    if len(found) != 1:
        return b"-answers " + (b"more than once" if found else b"nothing")
    if len(found[0]) > ANSWER:
        return b"-answers with %d characters; at most %d are taken" % (len(found[0]), ANSWER)
    return b"+" + found[0].encode("utf-8", "replace")


def _first_two(answers: Iterator[str]) -> Iterator[str]:
    for number, answer in enumerate(answers):
        yield answer
        if number:
            return


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # what is open stays open; nothing else ever is
    _allow()


def _allow() -> None:
    """Renew the processor time: a limit on the whole process would end a good one after a while."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + CPU
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _length() -> int:
    (length,) = struct.unpack(">I", _read(4))
    return int(length)


def _read(size: int) -> bytes:
    found = sys.stdin.buffer.read(size)
    if len(found) < size:
        os._exit(0)
    return found


def _write(answer: bytes) -> None:
    sys.stdout.buffer.write(struct.pack(">I", len(answer)) + answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
