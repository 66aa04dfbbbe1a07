"""Compiled filters: a policy becomes closures once, a message is looked at without looking anything up by name.

A list is its elements, each an alternative; an attribute of `bytes` is not there (SNS: T39, T45).

Arrays of objects in a body keep together (SNS: T45): all rules below one array must hold for one and the same element.
Policy {"items": {"sku": ["a"], "qty": [1]}} does not match {"items": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}]}.
SNS does not document it; its error texts are those of event-ruler, which works so, and so a policy that was written
with one element in mind never lets a message through because of two. A path that one message spells in several ways
({"a": [..], "a.b": ..}) offers each spelling as one more element. `{"exists": false}` looks at the whole message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from pipeflow.filters.grammar import parse_policy
from pipeflow.filters.rules import Alternative, Json, Leaf, Path, Prefix, Suffix
from pipeflow.filters.values import Test, test_of
from pipeflow.messages import AttributeValue
from pipeflow.specs import FilterPolicy

# From a dot to the end of a key, in bytes; linear, and wrong on the safe side only. What was passed is not looked at
# again: with a way back it takes three to five times as long.
_DOTTED_KEY: Final = re.compile(rb'\.[^".\\]*+(?:\\.[^".\\]*+)*+"\s*+:', re.DOTALL)
_ESCAPED_DOT: Final = b"\\u002"
_ESCAPED: Final = b"\\u"
# Without such an escape a text of these characters stands in a body as it is.
_AS_IT_IS: Final = re.compile(r'[^"\\/\x00-\x1f\ud800-\udfff]+')
_ABSENT: Final = object()
_decode_in_range = msgspec.json.decode
_decode_any_number = msgspec.json.Decoder(float_hook=float).decode
_passed_over = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
READ_WHOLE = 64 << 10
"""Bytes of a body up to which all of it is read, 1 to 2 ms. Of a larger one the fields that policies name are, and the
rest is passed over at 1 ms for each MiB: nobody else runs meanwhile, in a thread neither."""
WAYS: Final = 64
"""Ways through one policy that are kept, by which of its fields that may be absent are there."""


class Subject:
    """One message as filters see it: its body is parsed at most once, and only when a policy looks at it."""

    __slots__ = ("body", "attributes", "_tree", "_parsed", "_dotted", "_plain")

    def __init__(self, body: bytes, attributes: Mapping[str, AttributeValue] | None) -> None:
        self.body = body
        self.attributes: Mapping[str, AttributeValue] = attributes or {}
        self._tree: dict[str, Json] | None = None
        self._parsed = False
        self._dotted = False
        self._plain: bool | None = None

    def lacks(self, texts: Sequence[Sequence[bytes]]) -> bool:
        """Whether a large body has none of some of these texts anywhere: it takes 1/20 of the time of reading them."""
        body = self.body
        if len(body) <= READ_WHOLE:
            return False
        if self._plain is None:
            self._plain = _ESCAPED not in body
        return self._plain and any(not any(map(body.__contains__, each)) for each in texts)

    def tree(self) -> dict[str, Json] | None:
        """The body when it is a JSON object; anything else matches nothing (SNS: T44)."""
        if not self._parsed:
            self._parsed = True
            try:
                if len(self.body) > READ_WHOLE:
                    self.body.decode()  # texts that are only passed over are not read
                    self._tree = _Parts(self.body)
                    return self._tree
                tree = _decode(self.body)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                return None
            if isinstance(tree, dict):
                self._tree = tree
                self._dotted = _may_have_dots(self.body)
        return self._tree

    def dotted(self, node: _Node) -> bool:
        """Whether some key that this asks about may have a dot in it, and so spell a path (SNS: T44)."""
        tree = self._tree
        return tree.dotted(node) if isinstance(tree, _Parts) else self._dotted


class _Parts(dict[str, Json]):
    """A large object, of which each field is read when it is first asked for by its name."""

    __slots__ = ("_here", "_below")

    def __init__(self, written: bytes) -> None:
        super().__init__(cast(dict[str, Json], _passed_over(written)))
        self._here = any("." in name for name in self)
        self._below: set[str] = set()
        """Fields that were read, and may have keys with dots."""

    def __getitem__(self, name: str) -> Json:
        value = super().__getitem__(name)
        if isinstance(value, msgspec.Raw):
            value = self[name] = self._read(name, bytes(value))
        return value

    def _read(self, name: str, written: bytes) -> Json:
        try:
            if len(written) > READ_WHOLE and written.startswith(b"{"):
                return _Parts(written)
            if not written.startswith(b'"') and _may_have_dots(written):
                self._below.add(name)
            read: Json = _decode(written)
            return read
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return []  # too deep, or an integer of thousands of digits: nothing that a policy asks for

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]

    def dotted(self, node: _Node) -> bool:
        """Whether what this asks for has to be looked for under other spellings, too."""
        if self._here:
            return True
        for name, below in node.below.items():
            value = self.get(name)
            if value.dotted(below) if isinstance(value, _Parts) else name in self._below:
                return True
        return False


def _decode(written: bytes) -> Any:
    """What is written there. Of a number past every bound no more is known than that: the rest is as good as ever."""
    try:
        return _decode_in_range(written)
    except msgspec.ValidationError:
        return _decode_any_number(written)


def _may_have_dots(written: bytes) -> bool:
    return _DOTTED_KEY.search(written) is not None or _ESCAPED_DOT in written


class Filter:
    """A compiled policy. Call it with one message, or `matches` with a Subject that several filters share."""

    __slots__ = ("policy", "matches")

    def __init__(self, policy: FilterPolicy, matches: Callable[[Subject], bool]) -> None:
        self.policy = policy
        self.matches = matches

    def __call__(self, body: bytes, attributes: Mapping[str, AttributeValue], /) -> bool:
        return self.matches(Subject(body, attributes))

    def __repr__(self) -> str:
        return f"Filter({self.policy!r})"


def compile_filter(policy: FilterPolicy, *, aws_limits: bool = False) -> Filter:
    """The policy as a predicate, or InvalidFilter; `aws_limits` adds what only AWS refuses (SNS: T36, T38, T42)."""
    alternatives = parse_policy(policy, aws_limits=aws_limits)
    if policy.scope == "attributes":
        compiled = [_attributes(_by_path(alternative)) for alternative in alternatives]
    else:
        compiled = [_body(alternative) for alternative in alternatives]
    return Filter(policy, _any_of(compiled))


def check_filter(policy: FilterPolicy) -> None:
    """InvalidFilter when this policy does not compile; less work than compiling it."""
    parse_policy(policy, aws_limits=False)


def _any_of(compiled: list[Callable[[Subject], bool]]) -> Callable[[Subject], bool]:
    if len(compiled) == 1:
        return compiled[0]

    def matches(subject: Subject) -> bool:
        for alternative in compiled:  # noqa: SIM110  # a generator costs 0.2 us a message
            if alternative(subject):
                return True
        return False

    return matches


def _by_path(alternative: Sequence[tuple[Path, Leaf]]) -> dict[Path, list[Leaf]]:
    paths: dict[Path, list[Leaf]] = {}
    for path, leaf in alternative:
        paths.setdefault(path, []).append(leaf)
    return paths


# Attributes


def _attributes(paths: dict[Path, list[Leaf]]) -> Callable[[Subject], bool]:
    fields = [_attribute(path[0], leaves) for path, leaves in paths.items()]
    if len(fields) == 1:
        only = fields[0]
        return lambda subject: only(subject.attributes)

    def matches(subject: Subject) -> bool:
        attributes = subject.attributes
        for field in fields:  # noqa: SIM110  # as above
            if not field(attributes):
                return False
        return True

    return matches


def _attribute(name: str, leaves: list[Leaf]) -> Callable[[Mapping[str, AttributeValue]], bool]:
    test = test_of(leaves)
    missing = all(leaf.missing for leaf in leaves)

    def matches(attributes: Mapping[str, AttributeValue]) -> bool:
        value = attributes.get(name)
        if isinstance(value, str):
            return test(value)
        if isinstance(value, list | tuple):
            return any(map(test, value)) if value else missing
        if value is None or isinstance(value, bytes | bytearray | memoryview):
            # An empty set of attributes never matches (SNS: T43); binary ones are not looked at (T39).
            return missing and bool(attributes)
        return test(value)

    return matches


# Bodies


class _Node:
    """What a policy asks of one path and of the paths below it."""

    __slots__ = ("leaves", "below", "height")

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self.below: dict[str, _Node] = {}
        self.height = 0

    def add(self, path: Path, leaf: Leaf) -> None:
        """Ask for `leaf` at `path` from here."""
        self.height = max(self.height, len(path))
        if path:
            self.below.setdefault(path[0], _Node()).add(path[1:], leaf)
        else:
            self.leaves.append(leaf)


def _body(alternative: Alternative) -> Callable[[Subject], bool]:
    if not alternative:
        return lambda subject: True  # nothing is asked, of a body that is no JSON object neither (SNS: T17)
    shape = _Node()
    for path, leaf in alternative:
        shape.add(path, leaf)
    absent = [path for path, leaf in alternative if leaf.missing and not _says_more_than_absent(leaf)]
    asked = [(path, leaf) for path, leaf in alternative if not leaf.missing or _says_more_than_absent(leaf)]
    holds = _by_what_is_there(asked) if any(leaf.missing for _, leaf in asked) else _wanted(asked)
    texts = [found for _, leaf in alternative if (found := _texts_of(leaf))]

    def matches(subject: Subject) -> bool:
        if texts and subject.lacks(texts):
            return False
        tree = subject.tree()
        if tree is None:
            return False
        if subject.dotted(shape):
            tree = _spelled_out(shape, tree)
        for path in absent:
            if _is_there(tree, path):
                return False
        return holds(tree)

    return matches


def _texts_of(leaf: Leaf) -> list[bytes]:
    """Texts of which a body has one as it is if it has what this asks for; none: it may ask for something else."""
    if leaf.missing or leaf.exists or leaf.numbers or leaf.literals:
        return []
    texts = [*leaf.strings]
    for operator in leaf.operators:
        if not isinstance(operator, Prefix | Suffix):
            return []
        texts.append(operator.operand)
    return [text.encode() for text in texts] if all(map(_AS_IT_IS.fullmatch, texts)) else []


def _says_more_than_absent(leaf: Leaf) -> bool:
    return bool(leaf.exists or leaf.strings or leaf.numbers or leaf.literals or leaf.operators)


def _wanted(asked: Alternative | list[tuple[Path, Leaf]]) -> Callable[[dict[str, Json]], bool]:
    root = _Node()
    for path, leaf in asked:
        root.add(path, leaf)
    return _object(root)


def _by_what_is_there(asked: list[tuple[Path, Leaf]]) -> Callable[[dict[str, Json]], bool]:
    """Fields that may be absent are asked where they are there; for each set of those, a way is made when one is met.

    All ways at once would be as many as there are sets: a million for twenty such fields.
    """
    optional = [path for path, leaf in asked if leaf.missing]
    ways: dict[tuple[bool, ...], Callable[[dict[str, Json]], bool]] = {}

    def holds(tree: dict[str, Json]) -> bool:
        there = tuple([_is_there(tree, path) for path in optional])
        way = ways.get(there)
        if way is None:
            if len(ways) >= WAYS:
                ways.clear()
            gone = {path for path, found in zip(optional, there, strict=True) if not found}
            way = ways[there] = _wanted([(path, leaf) for path, leaf in asked if not (leaf.missing and path in gone)])
        return way(tree)

    return holds


_NOTHING: Final = Leaf(frozenset(), frozenset(), frozenset(), (), False, True, 0, 0)


def _object(node: _Node) -> Callable[[dict[str, Json]], bool]:
    fields = [(name, _value(below)) for name, below in node.below.items()]
    if len(fields) == 1:
        ((name, only),) = fields
        return lambda found: (value := found.get(name, _ABSENT)) is not _ABSENT and only(value)

    def holds(found: dict[str, Json]) -> bool:
        for name, field in fields:
            value = found.get(name, _ABSENT)
            if value is _ABSENT or not field(value):
                return False
        return True

    return holds


def _value(node: _Node) -> Test:
    if not node.below:
        return _scalar(node)
    below = _object(node)

    def branch(value: object) -> bool:
        if isinstance(value, dict):
            return below(value)
        return isinstance(value, list) and _some(value, below, objects=True)

    if not node.leaves:
        return branch
    scalar = _scalar(node)
    return lambda value: scalar(value) and branch(value)


def _scalar(node: _Node) -> Test:
    test = test_of(node.leaves)

    def leaf(value: object) -> bool:
        if isinstance(value, list):
            return _some(value, test, objects=False)
        return not isinstance(value, dict) and test(value)

    return leaf


def _some(values: list[Json], test: Callable[[Any], bool], objects: bool) -> bool:
    """Whether this holds for one of the objects of an array, or of what is none, and in arrays within."""
    nested = False
    for value in values:  # half of what `elements` costs, where there are many
        if isinstance(value, list):
            nested = True
        elif isinstance(value, dict) is objects and test(value):
            return True
    return nested and any(test(each) for each in elements(values) if isinstance(each, dict) is objects)


def elements(values: list[Json]) -> Iterator[Json]:
    """Every element, of arrays within arrays too, without recursion: a body may nest deeper than the stack."""
    open_arrays = [iter(values)]
    while open_arrays:
        for value in open_arrays[-1]:
            if isinstance(value, list):
                open_arrays.append(iter(value))
                break
            yield value
        else:
            open_arrays.pop()


def _is_there(tree: dict[str, Json], path: Path) -> bool:
    """Whether some value that is no object lies at `path`; an empty array is nothing (SNS: T45)."""
    found: list[Json] = [tree]
    for name in path:
        found = [each[name] for each in elements(found) if isinstance(each, dict) and name in each]
    return any(not isinstance(each, dict) for each in elements(found))


def may_lie_at(path: Path, subject: Subject) -> bool:
    """Whether the body has, or may have in another spelling, some value that is no object at `path`."""
    tree = subject.tree()
    shape = _Node()
    shape.add(path, _NOTHING)
    return tree is not None and (subject.dotted(shape) or _is_there(tree, path))


def _spelled_out(node: _Node, found: dict[str, Json]) -> dict[str, Json]:
    """The part of an object that a policy speaks of, with keys such as "a.b" written as objects in objects."""
    if node.height == 1:
        # No key with a dot spells what is asked for.
        return {name: found[name] for name in node.below if name in found}
    spelled = [
        (segments, _spelled_value(below, found[key]))
        for key in found
        if key.count(".") < node.height and (below := _below(node, segments := key.split("."))) is not None
    ]
    # Longest first: what lies between is then always an object when a longer spelling passes through it.
    spelled.sort(key=lambda entry: -len(entry[0]))
    out: dict[str, Json] = {}
    for segments, value in spelled:
        _join(out, segments, value)
    return out


def _below(node: _Node, segments: list[str]) -> _Node | None:
    for segment in segments:
        further = node.below.get(segment)
        if further is None:
            return None
        node = further
    return node


def _spelled_value(node: _Node, value: Json) -> Json:
    if not node.below:
        return value
    if isinstance(value, dict):
        return _spelled_out(node, value)
    if isinstance(value, list):
        return [_spelled_out(node, each) if isinstance(each, dict) else each for each in elements(value)]
    return value


def _join(out: dict[str, Json], segments: list[str], value: Json) -> None:
    for segment in segments[:-1]:
        further = out.setdefault(segment, {})
        assert isinstance(further, dict)
        out = further
    name = segments[-1]
    if name not in out:
        out[name] = value
        return
    known = out[name]
    if isinstance(known, dict) and isinstance(value, dict):
        for key, each in value.items():
            _join(known, [key], each)
    else:
        out[name] = [*_listed(known), *_listed(value)]


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]
