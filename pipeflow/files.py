"""What a stream delivered, as data: the facts of each object, questions about them, and plans to merge small ones."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from pipeflow.errors import ConfigurationError

Kind: TypeAlias = Literal["rows", "errors"]
"""Whether an object holds what the stream was given, or what failed on the way."""

PAGE = 1_000
"""Files that one question answers, if not told otherwise."""


class FileFacts(Struct, frozen=True, array_like=True):
    """One delivered object, as the catalogue remembers it."""

    name: str
    """Below the sink's root."""
    partition: str
    kind: Kind
    first: int
    """Sequence of its oldest record ..."""
    last: int
    """... and of its newest. In a partitioned stream records between them may lie in other files."""
    records: int
    size: int
    """Bytes in the sink."""
    crc: int
    """CRC-32 of these bytes."""
    raw_size: int
    """Bytes of its records before compression; 0 where an older version did not note it."""
    format: str
    """jsonl, raw, csv, parquet ...; empty where an older version did not note it."""
    compression: str
    shape: int
    """Equal for files whose rows look alike: columns and delimiter."""
    opened_at: float
    """When its oldest record arrived."""
    delivered_at: float
    """When it was in the sink, for good; of a merged file: when the newest of its inputs was."""
    generation: int = 0
    """0: as delivered; n: merged out of files of generation n - 1 and below."""
    retired_at: float | None = None
    """When a merged file took its place; it is deleted some time after that."""

    @property
    def cursor(self) -> tuple[int, str]:
        """Where the next page begins: `FileQuery(after=...)`."""
        return self.first, self.name


class FileQuery(Struct, frozen=True, array_like=True):
    """Which files: all conditions hold at once. Answers come in the order of sequences, `limit` at a time."""

    first: int = 0
    """Files with a record of this sequence or a later one ..."""
    last: int | None = None
    """... up to this one."""
    since: float | None = None
    """Files that may hold records which arrived at this time or later: delivered since then ..."""
    until: float | None = None
    """... and opened until then."""
    partition: str | None = None
    retired: bool = False
    """Those too whose place a merged file has taken."""
    after: tuple[int, str] | None = None
    """The cursor of the last file of the page before."""
    limit: int = PAGE

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigurationError(f"files: limit is {self.limit}; use at least 1")
        check_span(self.first, self.last, self.since, self.until, "files")


def check_span(first: int, last: int | None, since: float | None, until: float | None, place: str) -> None:
    """ConfigurationError when no record can be of these sequences, or have arrived in this time."""
    if first < 0 or (last is not None and last < first):
        raise ConfigurationError(f"{place}: the sequences are {first} to {last}; give first=, and last= from there on")
    if since is not None and until is not None and until < since:
        raise ConfigurationError(f"{place}: the times are {since} to {until}; give since=, and until= from there on")


class ManifestFacts(Struct, frozen=True, array_like=True):
    """One manifest in the sink."""

    id: int
    """Grows: a manifest replaces only such as have smaller ids, and they are deleted in the order of their ids."""
    partition: str
    name: str
    replaced_at: float | None = None


class Merge(Struct, frozen=True, array_like=True):
    """Small files of one partition, and the name of the one that takes their place."""

    output: str
    inputs: list[FileFacts]


class Compaction(Struct, frozen=True, array_like=True):
    """Merges of one partition that become visible at once, when the swap manifest is there."""

    id: int
    stream: str
    partition: str
    merges: list[Merge]
    manifest: str
    """The swap: it adds every file of the partition that counts, and removes the inputs."""
    replaces: list[int]
    """The manifests that nobody needs when the swap is there."""
    level: int | None = None
    """How hard to compress."""


class CompactRequest(Struct, frozen=True, array_like=True):
    """Which files to merge."""

    target: int | None = None
    """Bytes a merged file has at most; None: the stream's own `target_bytes`."""
    older_than: float = 0.0
    """Only files delivered so many seconds ago or earlier."""
    keep: float = 3_600.0
    """Seconds that a merged-away file stays for those who read it now."""
    dry_run: bool = False
    """Plan, and change nothing."""


class Merged(Struct, frozen=True, array_like=True):
    """What became of several small files."""

    partition: str
    output: str
    files: int
    records: int
    size_before: int
    size_after: int
    """0 in a dry run."""


class CompactReport(Struct, frozen=True, array_like=True):
    """What a compaction did."""

    merged: list[Merged]
    deleted: int = 0
    """Files whose time to be kept was over."""
    manifests: int = 0
    """Manifests in the sink now."""
