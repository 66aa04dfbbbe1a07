"""Names, ids and receipts: what may be called what, and what the store calls things itself.

Ids are ordered by time and unguessable; receipts that leave the process carry an HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from fnmatch import fnmatchcase
from struct import Struct as Packing
from struct import error as PackingError
from typing import Final

from pipeflow.errors import InvalidName, ObjectRefused
from pipeflow.messages import Receipt

_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,256}\Z")
_STREAM = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}\Z")
_SOURCE = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")

MAX_SEGMENT = 255
MAX_NAME = 1024
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)
"""Segments that some systems take for a device."""
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


def queue_name(name: str, /) -> str:
    """The name itself, or InvalidName: 1-80 letters, digits, `-`, `_`; FIFO is an option, not a suffix (SQS: Q5)."""
    if _QUEUE.match(name):
        return name
    hint = "; leave `.fifo` off and pass fifo=True" if name.endswith(".fifo") else ""
    raise InvalidName(f"queue {name!r}: use 1 to 80 letters, digits, hyphens or underscores{hint}")


def topic_name(name: str, /) -> str:
    """The name itself, or InvalidName: 1-256 letters, digits, `-`, `_` (SNS: T1)."""
    if _TOPIC.match(name):
        return name
    hint = "; leave `.fifo` off and pass fifo=True" if name.endswith(".fifo") else ""
    raise InvalidName(f"topic {name!r}: use 1 to 256 letters, digits, hyphens or underscores{hint}")


def topic_pattern(pattern: str, /) -> str:
    """The pattern itself, or InvalidName: the name of a topic with `*` in it, for any run of characters."""
    if "*" in pattern and "**" not in pattern and _TOPIC.match(pattern.replace("*", "x")):
        return pattern
    raise InvalidName(
        f"topics {pattern!r}: use 1 to 256 letters, digits, hyphens or underscores, and `*` for any run of them"
    )


def is_pattern(topic: str, /) -> bool:
    """Whether this names many topics."""
    return "*" in topic


def is_meant(topic: str, pattern: str, /) -> bool:
    """Whether a topic of this name is one of those that a pattern names."""
    return fnmatchcase(topic, pattern)


def may_meet(one: str, other: str, /) -> bool:
    """Whether some topic can be named by both patterns."""
    seen = {(0, 0)}
    todo = [(0, 0)]
    while todo:
        i, j = todo.pop()
        a, b = one[i : i + 1], other[j : j + 1]
        if not a and not b:
            return True
        if a == "*" or b == "*":
            # The star ends here, or takes one more of the other.
            steps = [(i + 1, j)] * bool(a) + [(i, j + 1)] * bool(b)
        else:
            steps = [(i + 1, j + 1)] if a == b else []
        new = [step for step in steps if step not in seen]
        seen.update(new)
        todo += new
    return False


def stream_name(name: str, /) -> str:
    """The name itself, or InvalidName: 1-64 letters, digits, `_`, `.`, `-`, and not dots alone (Firehose: S1)."""
    if _STREAM.match(name) and name.strip("."):
        return name
    raise InvalidName(f"stream {name!r}: use 1 to 64 letters, digits, underscores, dots or hyphens, and not dots alone")


def source_name(name: str, /) -> str:
    """The name itself, or InvalidName: 1-128 letters, digits, `_`, `.`, `:`, `-`."""
    if _SOURCE.match(name):
        return name
    raise InvalidName(f"source {name!r}: use 1 to 128 letters, digits, underscores, dots, colons or hyphens")


def valid_group(value: object, /) -> bool:
    """Whether a group or dedup id may be used: 1-128 printable ASCII characters, no space (SQS: Q38)."""
    return isinstance(value, str) and _GROUP.match(value) is not None


def check_name(name: str, /) -> list[str]:
    """The segments of an object's name that stays beneath its root; ObjectRefused for any other (Firehose: S84)."""
    segments = name.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ObjectRefused(f"object {name!r}: empty, `.` and `..` segments would leave the sink's root")
    if _FORBIDDEN.search(name) or unicodedata.normalize("NFC", name) != name:
        raise ObjectRefused(f"object {name!r}: control characters, backslashes and unnormalised text are refused")
    for segment in segments:
        if segment[0] in "-~" or RESERVED.match(segment):
            raise ObjectRefused(f"object {name!r}: segment {segment!r} means something else to a shell or a system")
        if len(segment.encode()) > MAX_SEGMENT:
            raise ObjectRefused(f"object {name!r}: a segment is longer than {MAX_SEGMENT} bytes")
    if len(name.encode()) > MAX_NAME:
        raise ObjectRefused(f"object {name[:80]!r}...: longer than {MAX_NAME} bytes")
    return segments


DRAWN = 64
"""Ids whose entropy is drawn at once."""


class IdPool:
    """Makes message ids: UUIDs whose first 48 bits are milliseconds (version 7), with entropy drawn in bulk."""

    __slots__ = ("_entropy", "_at", "_head", "_tails")

    def __init__(self, seed: int | None = None) -> None:
        self._entropy = _entropy_source(seed)
        self._tails: list[str] = []
        self._at = 0
        self._head = "00000000-0000-7"

    def new(self, now: float, /) -> str:
        """A new id for this moment; later ids sort after earlier ones to the millisecond."""
        ms = int(now * 1000)
        if ms > self._at:
            # Many ids share a millisecond, and so its letters.
            self._at = ms
            head = f"{ms:012x}"
            self._head = f"{head[:8]}-{head[8:]}-7"
        if not self._tails:
            self._draw()
        return self._head + self._tails.pop()

    def _draw(self) -> None:
        # Many in one go: laid out one by one, an id took 5 % of a durable message's time.
        drawn = self._entropy(10 * DRAWN).hex()
        self._tails = [
            f"{drawn[at : at + 3]}-{_VARIANTS[drawn[at + 3]]}{drawn[at + 4 : at + 7]}-{drawn[at + 7 : at + 19]}"
            for at in range(0, 20 * DRAWN, 20)
        ]


_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The letter of an id that says how it is laid out, drawn by four bits of entropy."""


def _entropy_source(seed: int | None) -> Callable[[int], bytes]:
    return os.urandom if seed is None else _Seeded(seed)


class _Seeded:
    """Repeatable entropy for tests."""

    def __init__(self, seed: int) -> None:
        from random import Random

        self._random = Random(seed)  # ids of a seeded test run, not secrets

    def __call__(self, size: int) -> bytes:
        return self._random.randbytes(size)


def new_secret(size: int = 32) -> bytes:
    """Unguessable bytes for keys and store ids."""
    return os.urandom(size)


def chance_source(seed: int | None = None) -> Chance:
    """A source of jitter in [0, 1); seeded for tests."""
    return Chance(seed)


class Chance:
    """Numbers in [0, 1) for jitter; the one place outside tests where chance comes from."""

    __slots__ = ("_random",)

    def __init__(self, seed: int | None = None) -> None:
        from random import Random

        self._random = Random(seed)  # jitter, not cryptography

    def roll(self) -> float:
        """The next number in [0, 1)."""
        return self._random.random()


_RECEIPT = Packing(">BQIQ")
_VERSION = 1


def seal_receipt(key: bytes, queue: str, receipt: Receipt) -> str:
    """The opaque handle of a receipt for consumers outside the process."""
    packed = _RECEIPT.pack(_VERSION, receipt.place, receipt.boot, receipt.receive)
    return urlsafe_b64encode(packed + _mac(key, queue, packed)).decode().rstrip("=")


def open_receipt(key: bytes, queue: str, handle: str) -> Receipt | None:
    """The receipt a handle names, or None when it is garbage, forged or another queue's (SQS: Q58)."""
    try:
        raw = urlsafe_b64decode(handle + "=" * (-len(handle) % 4))
        packed, mac = raw[: _RECEIPT.size], raw[_RECEIPT.size :]
        version, place, boot, receive = _RECEIPT.unpack(packed)
    except (ValueError, PackingError):
        return None
    if version != _VERSION or not hmac.compare_digest(mac, _mac(key, queue, packed)):
        return None
    return Receipt(place, boot, receive)


def _mac(key: bytes, queue: str, packed: bytes) -> bytes:
    return hmac.new(key, queue.encode() + b"\0" + packed, hashlib.sha256).digest()[:16]


def digest(text: bytes, /, size: int = 16) -> bytes:
    """A short fingerprint: equal texts give equal bytes. Not a secret."""
    return hashlib.blake2b(text, digest_size=size).digest()
