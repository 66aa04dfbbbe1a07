"""Keys of delayed messages: a message can be replaced or cancelled by its key until it is visible.

Memory knows the keys of the delayed messages it holds. Those of messages that only the disk has are looked up before
they are used; from the lookup until the use it is noted what changes, so that what was read is true when it is used.
Nothing of this is kept, or done, for messages without a key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from pipeflow.embedded.journal import Journal
from pipeflow.state.stored import DELAYED, Stored

if TYPE_CHECKING:
    from pipeflow.embedded.head import Head

_PREFIX: Final = "\x01"
"""No group has it in its name, so that the index of groups serves for keys too."""
RETRIES: Final = ""
"""The name under which the disk has delayed messages that were received before. No key has it, and no group."""
BEHIND_KEYS: Final = "\x02"
"""Comes after the names of all keys, and before those of all groups."""
LOOKED_UP: Final = 500
"""Keys that one hop to the disk looks up: 10 us each, and commits wait for it."""


def name_of_key(key: str) -> str:
    """Under which name the disk finds the delayed message of this key."""
    return _PREFIX + key


def name_of_delayed(message: Stored) -> str | None:
    """Under which name the disk finds a delayed message of a standard queue; None where nobody asks."""
    if message.key is not None:
        return name_of_key(message.key)
    return RETRIES if message.receives else None


class Keys:
    """The keys of one queue."""

    __slots__ = ("_found", "_head", "_users")

    def __init__(self, head: Head) -> None:
        self._head = head
        self._found: dict[str, Stored] = {}
        """Delayed messages on disk, while somebody uses keys: read, or gone there since."""
        self._users = 0

    @property
    def in_use(self) -> bool:
        """Whether a delayed message must not leave memory now: who looked for its key has found it there."""
        return self._users > 0

    @property
    def on_disk(self) -> bool:
        """Whether a key may be found on disk only."""
        return self._head.tail.delayed > 0

    def went_cold(self, message: Stored) -> None:
        """A new message with a key is on disk only."""
        if self._users:
            assert message.key is not None
            self._found[message.key] = message

    def take_back(self, key: str, now: float) -> bool:
        """Delete the message of this key while it is delayed; whether there was one. The key was looked up."""
        head = self._head
        message = head.state.keys.get(key)
        if message is not None and self._waits(message, now):
            head.state.take_back(message)
        else:
            message = self._found.pop(key, None)
            if message is None or not self._waits(message, now) or not self._is_there(message):
                return False
            head.tail.take_back(message)
        head.counters.cancelled += 1
        head.touch()
        return True

    def _waits(self, message: Stored, now: float) -> bool:
        # Time may not have had its effect yet: what is due is visible.
        ends = min(message.expires_at, message.kept_from + self._head.spec.retention)
        return message.until > now and ends > now

    def _is_there(self, message: Stored) -> bool:
        tail = self._head.tail
        return message.state == DELAYED and tail.has(message) and not tail.has_left(message.place)

    # -- looking up ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Somebody is about to look keys up, and to use them."""
        self._users += 1
        self._head.tail.watch()

    def end(self) -> None:
        """They were used."""
        self._users -= 1
        self._head.tail.unwatch()
        if not self._users:
            self._found.clear()
            self._head.tail.shed()

    async def look_up(self, keys: Collection[str], journal: Journal) -> None:
        """Find those of them that only the disk has. What was done before this is on disk."""
        hot = self._head.state.keys
        names = [name_of_key(key) for key in keys if key not in hot]
        for start in range(0, len(names), LOOKED_UP):
            loaded = await journal.load_keyed(self._head.number, names[start : start + LOOKED_UP])
            for message in loaded.messages:
                if message.key is not None:
                    # One that went there after the reading began is newer.
                    self._found.setdefault(message.key, message)


async def look_up(
    wanted: Mapping[Keys, Collection[str]], committed: Callable[[], Awaitable[None]], journal: Journal
) -> None:
    """Begin to use these keys: whoever holds one of them is known when this returns. The caller ends it."""
    for keys in wanted:
        keys.begin()
    try:
        if any(keys.on_disk for keys in wanted):
            # What is read must be what this process did until now; what changes meanwhile is noted.
            await committed()
            for keys, names in wanted.items():
                await keys.look_up(names, journal)
    except BaseException:
        for keys in wanted:
            keys.end()
        raise
