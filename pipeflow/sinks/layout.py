"""Where one stream's objects lie: beneath their partition as pipeflow names it, or beneath a prefix as Firehose does.

Everything is checked when the stream is declared, and what depends on values from data when a record is placed. So a
segment that can be sealed always has a name, and the name never leaves the sink's root.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from datetime import tzinfo
from typing import cast

from pipeflow.errors import ConfigurationError, ObjectRefused, RefusedError
from pipeflow.names import check_name
from pipeflow.sinks.manifest import folder
from pipeflow.sinks.objects import (
    ERRORS,
    NOT_TAKEN,
    UNPACK_ERRORS,
    check_partition,
    encoded,
    is_errors,
    object_name,
    partition_path,
)
from pipeflow.sinks.prefixes import (
    ERROR_TYPE,
    FAILED,
    MAX_EVALUATED,
    TIME,
    UNCONVERTED,
    UNPACKED,
    Prefix,
    column_of,
    parse,
)
from pipeflow.sinks.timestamps import zone_named
from pipeflow.specs import StreamSpec

MAX_EXTENSION = 128
MAX_ZONE = 50
_EXTENSION = re.compile(r"(\.[0-9a-z!\-_.*'()]+)?\Z")
_TEMPORARY = re.compile(r"(?:^|(?<=/))\.tmp-")
_REMEMBERED = 4_000
"""Partitions known to be in order, and keys with their partition; forgotten all at once, then made again."""


_TEXT = frozenset({str, type(None)})
"""Types whose equal values are equal in a path."""


class Layout:
    """The names of one stream's objects. ConfigurationError where its options make none."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._zone = _zone(spec)
        self._prefix, self._error_prefix = _prefixes(spec)
        self._keys = self._prefix.keys if self._prefix is not None else ()
        self._known: set[str] = set()
        self._paths: dict[Hashable, str] = {}
        """The partition of keys that had one: making it takes 2 us, remembering 0.1 (benchmarks/partitions.py)."""
        self._check_extension()
        _check_manifest(spec)
        _check_keys(spec, self._keys)
        for option, prefix in (("prefix", self._prefix), ("error_prefix", self._error_prefix)):
            if prefix is not None:
                self._check_text(option, prefix)

    @property
    def needs_keys(self) -> bool:
        """Whether the prefix uses partition keys: without them no record has a place."""
        return bool(self._keys)

    @property
    def takes_keys(self) -> bool:
        """Whether partition keys make a place: not beneath a prefix that uses none."""
        return self._prefix is None or bool(self._keys)

    def partitions(self, keys: Iterable[object], /) -> list[str]:
        """The partition of each; RefusedError for the first that has none."""
        paths = self._paths
        return [paths[key] if type(key) is str and key in paths else self.partition(key) for key in keys]

    def partition(self, key: object, /) -> str:
        """The partition that an answer of `partition_by` stands for; RefusedError when there is none (S54, S57)."""
        remembered = _remembered(key)
        if remembered is None:
            return self._made(key)
        path = self._paths.get(remembered)
        if path is None:
            path = self._made(key)
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            self._paths[remembered] = path
        return path

    def _made(self, key: object) -> str:
        if self._prefix is None:
            path = partition_path(key)
            self.check(path)
            return path
        if not isinstance(key, Mapping):
            raise RefusedError("Partition", f"partition_by returned {key!r}: return a dict with {self._wanted()}")
        if len(key) != len(self._keys) or any(name not in key for name in self._keys):
            raise RefusedError(
                "Partition",
                f"partition_by returned the keys {', '.join(map(str, key)) or 'none'}, and the prefix uses "
                f"{', '.join(self._keys)}: return a dict with exactly {self._wanted()}",
            )
        path = "/".join([f"{encoded(name)}={encoded(key[name])}" for name in self._keys])
        self.check(path)
        return path

    def check(self, partition: str, /) -> None:
        """RefusedError unless objects of this partition can be named, at any time."""
        if partition in self._known or (not partition and not self._keys) or is_errors(partition):
            return
        check_partition(partition)
        if self._prefix is not None:
            self._check_values(self._prefix, partition)
        elif self._spec.extension is not None:
            self._check_length(None, partition)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known.add(partition)

    def name(
        self,
        partition: str,
        *,
        first: int,
        last: int,
        opened_at: float,
        store_id: str,
        boot: int | None = None,
        error_type: str = FAILED,
        format: str | None = None,
        compression: str | None = None,
    ) -> str:
        """The name of one segment's object: equal arguments, equal name; and no two segments of a store share one.

        `format` and `compression` where they are not the stream's, as of a segment that was sealed with others.
        """
        prefix = self._error_prefix if is_errors(partition) else self._prefix
        undelivered = error_type not in (FAILED, UNCONVERTED)
        under: str | None = f"errors/{error_type}/" if undelivered else None
        if prefix is not None:
            if partition == UNPACK_ERRORS and not undelivered:
                error_type = UNPACKED
            seed = f"{store_id}/{self._spec.name}/{boot}/{first}"
            under = prefix.evaluate(opened_at, self._zone, self._values(partition), seed, error_type)
        spec = self._spec
        return object_name(
            spec.name,
            partition,
            first=first,
            last=last,
            opened_at=opened_at,
            store_id=store_id,
            format=format or spec.format,
            compression=compression or spec.compression,
            boot=boot,
            extension=self._extension(partition),
            under=under,
            kind=NOT_TAKEN if undelivered else "",
        )

    def _extension(self, partition: str) -> str | None:
        # Beside tables failed records are JSON lines, which must not be taken for a table.
        return None if is_errors(partition) and self._spec.columns else self._spec.extension

    def _widest_name(self, under: str | None, partition: str) -> str:
        """A name as long as any with this prefix, or with this partition where there is none."""
        spec = self._spec
        return object_name(
            spec.name,
            partition,
            first=10**12 - 1,
            last=10**12 - 1,
            opened_at=0.0,
            store_id="0" * 12,
            format=spec.format,
            compression=spec.compression,
            boot=10**6,
            extension=self._extension(partition),
            under=under,
            kind=NOT_TAKEN if is_errors(partition) and spec.failures is not None else "",
        )

    def _values(self, partition: str) -> Mapping[str, str]:
        """The encoded values of the keys: they stand in the partition in the order of the prefix."""
        if is_errors(partition) or not self._keys:
            return {}
        found = [segment.partition("=") for segment in partition.split("/")]
        return {key: value for key, (_, _, value) in zip(self._keys, found, strict=True)}

    def _check_values(self, prefix: Prefix, partition: str) -> None:
        names = [segment.partition("=")[0] for segment in partition.split("/")]
        if names != [encoded(key) for key in self._keys]:
            wanted = self._wanted() if self._keys else "no partition: its prefix uses no keys"
            raise RefusedError("Partition", f"partition {partition!r}: stream {self._spec.name} takes {wanted}")
        folder = prefix.widest(self._values(partition))
        if len(folder) > MAX_EVALUATED:
            raise RefusedError(
                "Partition",
                f"partition {partition[:60]!r}...: the prefix evaluates to {len(folder)} characters, and at most "
                f"{MAX_EVALUATED} are a name; partition by a shorter key",
            )
        self._check_length(folder, partition)

    def _check_length(self, folder: str | None, partition: str) -> None:
        try:
            check_name(self._widest_name(folder, partition))
        except ObjectRefused as error:
            raise RefusedError("Partition", f"partition {partition[:60]!r}: {error}; use a shorter key") from error

    def _check_extension(self) -> None:
        spec = self._spec
        if spec.extension is None:
            return
        if len(spec.extension) > MAX_EXTENSION or not _EXTENSION.match(spec.extension):
            raise ConfigurationError(
                f"stream {spec.name}: extension {spec.extension[:MAX_EXTENSION]!r}: use a dot and up to "
                f"{MAX_EXTENSION - 1} of 0-9, a-z and !-_.*'(), such as '.jsonl.gz', or '' for none"
            )
        try:
            check_name(self._widest_name(None, ""))
        except ObjectRefused as error:
            raise ConfigurationError(
                f"stream {spec.name}: extension {spec.extension!r}: {error}; shorten it"
            ) from error

    def _check_text(self, option: str, prefix: Prefix) -> None:
        """What is written in the prefix makes a name beneath the root; ConfigurationError names where it does not."""
        folder = prefix.widest(dict.fromkeys(prefix.keys, "0"))
        place = f"stream {self._spec.name}: {option} {prefix.raw[:80]!r}"
        if temporary := _TEMPORARY.search(folder):
            raise ConfigurationError(
                f"{place}: column {column_of(prefix, temporary.start())}: `.tmp-` begins files that are not whole yet; "
                "begin it otherwise"
            )
        name = self._widest_name(folder, ERRORS if option == "error_prefix" else "")
        try:
            check_name(name)
        except ObjectRefused as error:
            at = _first_refused(name)
            raise ConfigurationError(
                f"{place}: column {column_of(prefix, at)}: {error}; write names between single slashes, "
                "without a slash at the beginning"
            ) from error

    def _wanted(self) -> str:
        return "the keys " + ", ".join(self._keys) if len(self._keys) > 1 else f"the key {self._keys[0]}"


def _remembered(key: object) -> Hashable | None:
    """What stands for this key and for no other that has another partition; None: nothing does."""
    kind = type(key)
    if kind is str:
        return cast(str, key)
    if kind is dict:
        names = cast(dict[object, object], key)
        values = names.values()
        return (dict, *names.items()) if _TEXT.issuperset(map(type, [*names, *values])) else None
    if kind is list or kind is tuple:
        parts = cast(list[object] | tuple[object, ...], key)
        return (list, *parts) if _TEXT.issuperset(map(type, parts)) else None
    return None


def _prefixes(spec: StreamSpec) -> tuple[Prefix | None, Prefix | None]:
    """What good and failed records lie under; None: as pipeflow names it."""
    given = None if spec.prefix is None else parse(spec.prefix, "prefix", spec.name)
    errors = None if spec.error_prefix is None else parse(spec.error_prefix, "error_prefix", spec.name)
    if errors is not None and errors.expressions and not errors.has("error-type"):
        raise ConfigurationError(
            f"stream {spec.name}: error_prefix {errors.raw[:80]!r}: column 1: expressions need {ERROR_TYPE}; "
            f"add it: {ERROR_TYPE}/"
        )
    if given is None:
        return None, errors
    if errors is None and given.expressions:
        first = next(part for part in given.parts if not part.literal)
        raise ConfigurationError(
            f"stream {spec.name}: prefix {given.raw[:80]!r}: column {first.column}: a prefix with expressions needs an "
            f"error_prefix; add error_prefix='errors/{ERROR_TYPE}/'"
        )
    if errors is None:
        errors = _followed(given, f"{ERROR_TYPE}/{TIME}", spec)
    if not given.keys and not given.has("time"):
        given = _followed(given, TIME, spec)  # by no slash: `logs` becomes `logs2013/` (S44)
    return given, errors


def _followed(prefix: Prefix, rest: str, spec: StreamSpec) -> Prefix:
    more = parse(rest, "error_prefix", spec.name)
    whole = Prefix(prefix.raw, (*prefix.parts, *more.parts))
    if (length := len(whole.widest({}))) > MAX_EVALUATED:
        raise ConfigurationError(
            f"stream {spec.name}: prefix {prefix.raw[:80]!r}: evaluates to {length} characters with what follows it "
            f"(S44, S45): {rest}; use at most {MAX_EVALUATED}"
        )
    return whole


def _check_manifest(spec: StreamSpec) -> None:
    if spec.manifest:
        try:
            folder(spec.name)
        except ObjectRefused as error:
            raise ConfigurationError(f"stream {spec.name}: manifest=True: {error}; give it another name") from error


def _zone(spec: StreamSpec) -> tzinfo:
    name = spec.timezone
    if name != "UTC" and spec.prefix is None and spec.error_prefix is None:
        raise ConfigurationError(
            f"stream {spec.name}: timezone {name!r} is the zone of a prefix; add one, or leave it out"
        )
    try:
        if len(name) > MAX_ZONE:
            raise ValueError(f"longer than {MAX_ZONE} characters")
        return zone_named(name)
    except ValueError as error:
        raise ConfigurationError(
            f"stream {spec.name}: timezone {name[:MAX_ZONE]!r}: {error}; use a name of the tz database such as "
            "Europe/Berlin, and install the package tzdata where the system has no such database"
        ) from error


def _check_keys(spec: StreamSpec, keys: tuple[str, ...]) -> None:
    if spec.prefix is None:
        return
    if spec.partition_keys and keys:
        _check_same_keys(spec, keys)
    if bool(keys) == spec.partitioned:
        return
    if keys:
        raise ConfigurationError(
            f"stream {spec.name}: prefix {spec.prefix[:80]!r} uses the partition keys {', '.join(keys)}, and nothing "
            "gives them; add partition_by, a function that returns them in a dict"
        )
    raise ConfigurationError(
        f"stream {spec.name}: prefix {spec.prefix[:80]!r} uses no key of what partition_by returns; "
        f"add {_key_expression(spec)} for each, or leave partition_by out"
    )


def _check_same_keys(spec: StreamSpec, used: tuple[str, ...]) -> None:
    """The keys that expressions give are those of the prefix, no more and no less (S54)."""
    place = f"stream {spec.name}: prefix {(spec.prefix or '')[:80]!r}"
    given = [each.key for each in spec.partition_keys]
    if given == [""]:
        raise ConfigurationError(
            f"{place} names its partition keys, and partition_by gives one without a name; give it as "
            f"{{{used[0]!r}: {spec.partition_keys[0].query!r}}}"
        )
    spare = [key for key in given if key not in used]
    # Keys of a function for Firehose are declared behind the stream, and looked for when the app opens.
    later = [key for key in used if f"!{{partitionKeyFromLambda:{key}}}" in (spec.prefix or "")]
    missing = [key for key in used if key not in given and key not in later]
    if missing:
        raise ConfigurationError(
            f"{place} uses {', '.join(missing)}, and partition_by gives {', '.join(given)}; give exactly "
            f"{', '.join(used)}"
        )
    if spare:
        raise ConfigurationError(
            f"{place} does not use {', '.join(spare)} of partition_by; add !{{partitionKeyFromQuery:{spare[0]}}}, or "
            "leave it out of partition_by (two partitions would share their names)"
        )


def _key_expression(spec: StreamSpec) -> str:
    if not spec.partition_keys:
        return "!{partitionKeyFromLambda:name}"
    return f"!{{partitionKeyFromQuery:{spec.partition_keys[0].key or 'name'}}}"


def _first_refused(name: str) -> int:
    """Where in a refused name the first segment stands that is refused by itself; 0 when it is the whole."""
    at = 0
    for segment in name.split("/"):
        try:
            check_name(segment)
        except ObjectRefused:
            return at
        at += len(segment) + 1
    return 0
