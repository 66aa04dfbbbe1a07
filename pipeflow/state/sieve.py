"""Many policies, one message: which of them let it through, asking only those that may.

A policy is filed by something that a message must have for it: one of some values at a path, the beginning or the end
of one, its network, or at least anything there; one that needs no more than anything at several paths is filed at one
of them, with all that need the same. A message is looked up by what it has. So a publish costs what its attributes, its
body and the policies that may match cost, however many others there are (SNS: T47). A policy that needs nothing, such
as {"kind": [{"exists": false}]}, is asked about every message. What is filed only leaves out what cannot match: whether
a message passes is said by its policy.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from pipeflow.filters import Subject, compile_filter
from pipeflow.filters.grammar import parse_policy
from pipeflow.filters.matching import elements, may_lie_at
from pipeflow.filters.needs import SOMETHING, Key, Need, cell, needs_of, networks_of
from pipeflow.filters.rules import Alternative, Json, Path
from pipeflow.specs import FilterPolicy

T = TypeVar("T")
Paths: TypeAlias = tuple[Path, ...]

FEW = 8
"""Policies up to which asking them all costs no more than looking them up: 0.2 us each, and a look-up 2 us."""


class Entry(Generic[T]):
    """One policy, whoever has it; compiled when it is first asked, so that ones that never match cost little memory."""

    __slots__ = ("policy", "owners", "filed", "together", "matches")

    def __init__(self, policy: FilterPolicy) -> None:
        self.policy = policy
        self.owners: dict[T, None] = {}
        self.filed: tuple[tuple[Path, Key], ...] = ()
        self.together: tuple[tuple[Path, Paths], ...] = ()
        """Where it lies among those that need anything at all of these paths."""
        self.matches: Callable[[Subject], bool] | None = None

    def compiled(self) -> Callable[[Subject], bool]:
        """What says whether this policy lets a message through."""
        self.matches = matches = compile_filter(self.policy).matches
        return matches


class Sieve(Generic[T]):
    """Policies and their owners. Equal policies are one."""

    __slots__ = ("_entries", "_always", "_attributes", "_bodies")

    def __init__(self) -> None:
        self._entries: dict[FilterPolicy, Entry[T]] = {}
        self._always: dict[Entry[T], None] = {}
        self._attributes: _Place[T] = _Place()
        self._bodies: _Place[T] = _Place()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, policy: FilterPolicy, owner: T) -> Entry[T]:
        """From now on this owner's messages are those that `policy` lets through; InvalidFilter."""
        entry = self._entries.get(policy)
        if entry is None:
            entry = Entry(policy)
            self._file(entry, parse_policy(policy, aws_limits=False))
            self._entries[policy] = entry
        entry.owners[owner] = None
        return entry

    def discard(self, entry: Entry[T], owner: T) -> None:
        """Take an owner from its policy; one that nobody has is forgotten."""
        entry.owners.pop(owner, None)
        if entry.owners or self._entries.get(entry.policy) is not entry:
            return
        del self._entries[entry.policy]
        self._always.pop(entry, None)
        root = self._root(entry)
        for path, key in entry.filed:
            root.forget(path, partial(_Place.remove, key=key, entry=entry))
        for path, paths in entry.together:
            root.forget(path, partial(_Place.part, paths=paths, entry=entry))

    def passing(self, subject: Subject) -> list[T]:
        """The owners of every policy that lets this message through, in no particular order."""
        passing: list[T] = []
        for entry in self.candidates(subject):
            if (entry.matches or entry.compiled())(subject):
                passing += entry.owners
        return passing

    def candidates(self, subject: Subject) -> Iterable[Entry[T]]:
        """The policies that have to be asked about this message, each once."""
        if len(self._entries) <= FEW:
            return self._entries.values()
        found = _Found(self._always)
        if self._attributes.below:
            _look_up_attributes(self._attributes, subject, found)
            if found.hits:
                found.add_together(lambda path: path[0] in subject.attributes)
        if self._bodies.below:
            tree = subject.tree()
            if tree is not None:
                self._bodies.look_up_object(tree, found)
                if found.hits:
                    found.add_together(lambda path: may_lie_at(path, subject))
        return found.entries

    def _root(self, entry: Entry[T]) -> _Place[T]:
        return self._attributes if entry.policy.scope == "attributes" else self._bodies

    def _file(self, entry: Entry[T], alternatives: Iterable[Alternative]) -> None:
        root = self._root(entry)
        filed: list[tuple[Path, Key]] = []
        together: list[tuple[Path, Paths]] = []
        for alternative in alternatives:
            needs = needs_of(alternative)
            if not needs:
                self._always[entry] = None
                continue
            paths = _anything_at(needs)
            if len(paths) > 1:
                path = min(paths, key=lambda path: root.company(path, paths))
                root.under(path).join(paths, entry)
                together.append((path, paths))
                continue
            # Of several values the one that the fewest have: of {"kind": ["placed"], "tenant": ["t7"]} the tenant.
            path, keys = needs[0] if len(needs) == 1 else min(needs, key=lambda need: root.crowd(*need))
            place = root.under(path)
            for key in keys:
                place.put(key, entry)
            filed += [(path, key) for key in keys]
        entry.filed = tuple(filed)
        entry.together = tuple(together)


def _anything_at(needs: Sequence[Need]) -> Paths:
    """The paths at which there has to be something, when that is all that is needed."""
    return tuple(sorted({path for path, keys in needs if SOMETHING in keys}))


class _Found(Generic[T]):
    """The policies to be asked about one message, and the places it hit where some lie that need more than one path."""

    __slots__ = ("entries", "hits")

    def __init__(self, always: dict[Entry[T], None]) -> None:
        self.entries = dict(always)
        self.hits: dict[_Place[T], None] = {}

    def add_together(self, there: Callable[[Path], bool]) -> None:
        """Those for which there is something at all of their paths; each path is looked at once."""
        known: dict[Path, bool] = {}
        for place in self.hits:
            for paths, entries in place.together.items():
                for path in paths:
                    if path not in known:
                        known[path] = there(path)
                    if not known[path]:
                        break
                else:
                    self.entries.update(entries)
        self.hits.clear()


class _Place(Generic[T]):
    """The policies filed at one path, and the paths below it."""

    __slots__ = ("below", "drawers", "together", "sizes", "bounds")

    def __init__(self) -> None:
        self.below: dict[str, _Place[T]] = {}
        self.drawers: dict[Key, dict[Entry[T], None]] = {}
        self.together: dict[Paths, dict[Entry[T], None]] = {}
        """The policies that need anything at all of these paths, of which this is one."""
        self.sizes: dict[str, dict[int, int]] = {}
        """By kind of key: how long the texts or networks that are filed are, or of which levels the cells; how many."""
        self.bounds: dict[str, list[float]] = {}
        """By "above" and "below": the numbers that are filed, in order."""

    # -- filing --------------------------------------------------------------------------------------------------

    def under(self, path: Path) -> _Place[T]:
        place = self
        for name in path:
            place = place.below.setdefault(name, _Place())
        return place

    def crowd(self, path: Path, keys: Iterable[Key]) -> int:
        """How many policies lie where the most do of those filed by these keys."""
        place: _Place[T] | None = self
        for name in path:
            place = place.below.get(name) if place is not None else None
        return max(len(place.drawers.get(key, ())) for key in keys) if place is not None else 0

    def put(self, key: Key, entry: Entry[T]) -> None:
        drawer = self.drawers.get(key)
        if drawer is None:
            drawer = self.drawers[key] = {}
            self._count(key, 1)
        drawer[entry] = None

    def remove(self, key: Key, entry: Entry[T]) -> None:
        drawer = self.drawers.get(key)
        if drawer is not None:
            drawer.pop(entry, None)
            if not drawer:
                del self.drawers[key]
                self._count(key, -1)

    def company(self, path: Path, paths: Paths) -> int:
        """How many others a message that has something at `path` would meet: none where the same paths lie already."""
        place: _Place[T] | None = self
        for name in path:
            place = place.below.get(name) if place is not None else None
        if place is None:
            return 0
        return -1 if paths in place.together else len(place.together)

    def join(self, paths: Paths, entry: Entry[T]) -> None:
        self.together.setdefault(paths, {})[entry] = None

    def part(self, paths: Paths, entry: Entry[T]) -> None:
        entries = self.together.get(paths)
        if entries is not None:
            entries.pop(entry, None)
            if not entries:
                del self.together[paths]

    def forget(self, path: Path, take_out: Callable[[_Place[T]], None]) -> None:
        """Take a policy out of the place at a path, and forget the places that nothing is left in."""
        if not path:
            take_out(self)
            return
        place = self.below.get(path[0])
        if place is not None:
            place.forget(path[1:], take_out)
            if not (place.drawers or place.together or place.below):
                del self.below[path[0]]

    def _count(self, key: Key, by: int) -> None:
        kind, operand = key
        if kind in ("above", "below"):
            assert isinstance(operand, int | float)
            bounds = self.bounds.setdefault(kind, [])
            if by > 0:
                insort(bounds, operand)
            else:
                del bounds[bisect_left(bounds, operand)]
        elif kind in ("start", "end", "folded", "cell", "IPv4", "IPv6"):
            assert isinstance(operand, str | tuple)
            size = operand[0] if isinstance(operand, tuple) else len(operand)
            sizes = self.sizes.setdefault(kind, {})
            sizes[size] = sizes.get(size, 0) + by
            if not sizes[size]:
                del sizes[size]

    # -- looking up ----------------------------------------------------------------------------------------------

    def look_up_object(self, found: dict[str, Json], into: _Found[T]) -> None:
        below = self.below
        for name in found:
            place = below.get(name)
            if place is None and "." in name:
                place = self._spelled(name)
            if place is None:
                continue
            value = found[name]
            if isinstance(value, dict):
                place.look_up_object(value, into)
            elif isinstance(value, list):
                for each in elements(value):
                    if isinstance(each, dict):
                        place.look_up_object(each, into)
                    else:
                        place.look_up(each, into)
            else:
                place.look_up(value, into)

    def _spelled(self, name: str) -> _Place[T] | None:
        """The place of a key with dots in it, which spells a path (SNS: T44)."""
        place: _Place[T] | None = self
        for segment in name.split("."):
            if place is None:
                return None
            place = place.below.get(segment)
        return place

    def look_up(self, value: object, into: _Found[T]) -> None:
        """Add the policies that this value may satisfy."""
        drawers = self.drawers
        for key in self._keys(value):
            drawer = drawers.get(key)
            if drawer is not None:
                into.entries.update(drawer)
        if self.together:
            into.hits[self] = None

    def _keys(self, value: object) -> Iterator[Key]:
        yield SOMETHING
        if isinstance(value, str):
            yield "value", value
            if self.sizes:
                yield from self._keys_of_text(value)
        elif value is None or isinstance(value, bool):
            yield "literal", value
        elif isinstance(value, int | float):
            yield "value", value
            for level in self.sizes.get("cell", ()):
                yield "cell", cell(value, level)
            if self.bounds:
                yield from self._keys_of_number(value)

    def _keys_of_text(self, value: str) -> Iterator[Key]:
        sizes = self.sizes
        if sizes.get("folded"):
            yield "folded", value.casefold()
        for length in sizes.get("start", ()):
            yield "start", value[:length]
        for length in sizes.get("end", ()):
            yield "end", value[max(0, len(value) - length) :]
        if sizes.get("IPv4") or sizes.get("IPv6"):
            yield from networks_of(value, sizes)

    def _keys_of_number(self, value: float) -> Iterator[Key]:
        above, below = self.bounds.get("above", []), self.bounds.get("below", [])
        for bound in above[: bisect_right(above, value)]:
            yield "above", bound
        for bound in below[bisect_left(below, value) :]:
            yield "below", bound


def _look_up_attributes(root: _Place[T], subject: Subject, into: _Found[T]) -> None:
    for name, value in subject.attributes.items():
        place = root.below.get(name)
        if place is None or isinstance(value, bytes | bytearray | memoryview):
            continue  # binary attributes are not looked at (SNS: T39)
        if isinstance(value, list | tuple):
            for each in value:
                place.look_up(each, into)
        else:
            place.look_up(value, into)
