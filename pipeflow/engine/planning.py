"""Which small files are merged into which larger one. Pure: the same files give the same plan.

Merged are neighbours of one kind: of one partition and folder, with the same format, compression and columns, and with
no other file of their kind between them, so that a merged file holds its records in order as its inputs did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from pipeflow.files import FileFacts, Merge
from pipeflow.specs import MERGED

PLANNED_FOR = 20_000
"""Files that are planned for at once."""

MOST_INPUTS = 5_000
"""Files of one merge."""

Kind: TypeAlias = tuple[object, ...]


def is_small(file: FileFacts, target: int) -> bool:
    """Below three quarters of the target: what is larger would be written anew for little."""
    return file.size < target * 3 // 4


def plan(
    stream: str,
    files: Iterable[FileFacts],
    target: int,
    *,
    eager: bool = True,
    leave: Callable[[FileFacts], bool] = lambda file: False,
) -> list[Merge]:
    """The merges of one partition, given its files in order; those that `leave` picks stay as they are.

    A merged file has at most `target` bytes, by the sizes of its inputs. `eager`: all that can be merged. Otherwise
    only so much that no input has more bytes than the others together: so a byte that lies in a file of n bytes was
    rewritten at most log2(n) times, and of files that come at a steady rate a few are left of each size.
    """
    runs: dict[Kind, list[FileFacts]] = {}
    chunks: list[list[FileFacts]] = []
    for file in files:
        kind = _kind(stream, file)
        run = runs.setdefault(kind, [])
        if not is_small(file, target) or not _mergeable(file) or leave(file):
            chunks += _chunks(run, target, eager)
            run.clear()
        else:
            run.append(file)
    for run in runs.values():
        chunks += _chunks(run, target, eager)
    merges = [Merge(_output_name(chunk), chunk) for chunk in chunks]
    return sorted(merges, key=lambda merge: merge.inputs[0].cursor)


def _chunks(run: Sequence[FileFacts], target: int, eager: bool) -> list[list[FileFacts]]:
    """Neighbours cut at the target."""
    cut: list[list[FileFacts]] = []
    chunk: list[FileFacts] = []
    size = 0
    for file in run:
        if chunk and (size + file.size > target or len(chunk) == MOST_INPUTS):
            # The next one does not fit: this one is as large as it gets.
            cut.append(chunk if eager or size >= target // 2 else _worth_it(chunk))
            chunk, size = [], 0
        chunk.append(file)
        size += file.size
    cut.append(chunk if eager else _worth_it(chunk))
    return [chunk for chunk in cut if len(chunk) > 1]


def _worth_it(chunk: Sequence[FileFacts]) -> list[FileFacts]:
    """The longest end of it in which no file has more bytes than the others together."""
    total = largest = 0
    begin = len(chunk)
    for n in range(len(chunk) - 1, -1, -1):
        total += chunk[n].size
        largest = max(largest, chunk[n].size)
        if 2 * largest <= total:
            begin = n
    return list(chunk[begin:])


def _mergeable(file: FileFacts) -> bool:
    known = file.format == "parquet" or (file.format in ("jsonl", "raw", "csv") and file.compression in MERGED)
    return known and _range(file) in file.name


def _kind(stream: str, file: FileFacts) -> Kind:
    """What neighbours have in common; what lies beneath different prefixes stays there."""
    head, _, tail = file.name.rpartition(_range(file))
    time = datetime.fromtimestamp(file.opened_at, UTC).strftime("%Y-%m-%d-%H-%M-%S")
    under, _, boots = head.rpartition(f"{stream}-{time}-")
    return file.kind, file.format, file.shape, file.compression, under, boots, tail


def _range(file: FileFacts) -> str:
    return f"{file.first:012d}-{file.last:012d}-"


def _output_name(chunk: Sequence[FileFacts]) -> str:
    """The first one's name with the range of all: no other file of the store has it."""
    first, last = chunk[0], chunk[-1]
    head, _, tail = first.name.rpartition(_range(first))
    return f"{head}{first.first:012d}-{last.last:012d}-{tail}"
