"""Another body or other attributes for a message that lies in a queue; its id, its place and its counts stay.

The new body is the message's own from then on: what other queues share with it stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pipeflow.edits import Edit, apply, fingerprint
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.weighing import unfit, weigh
from pipeflow.errors import RefusedError
from pipeflow.letters import SAMPLES, SHOWN_BYTES, Change, Seen
from pipeflow.messages import AttributeValue, Outgoing
from pipeflow.specs import QueueSpec
from pipeflow.state.stored import Stored
from pipeflow.webhooks import SIGNED


class Rewritten(Struct, frozen=True):
    """What a message becomes."""

    body: bytes | None
    """None: it stays where it is kept aside."""
    attributes: dict[str, AttributeValue] | None
    size: int


def rewritten(edit: Edit, message: Stored, spec: QueueSpec) -> Rewritten:
    """What an edit makes of a message; RefusedError: it does not fit, or the queue would not take the outcome."""
    claim = message.claim
    if claim is not None and edit.of_body:
        raise RefusedError(
            "Unfit",
            f"its body of {claim.size} bytes is kept aside, where edits do not reach; change its attributes only",
        )
    body, attributes = apply(edit, message.body or b"", message.attributes)
    outgoing = Outgoing(body, attributes, claim=claim)
    refused = unfit(spec.name, outgoing)
    if refused is not None:
        raise RefusedError(refused.code, refused.reason)
    size = weigh(outgoing)
    if size > max(spec.max_body, message.size):
        raise RefusedError("too_large", f"edited it has {size} bytes, the limit of {spec.name} is {spec.max_body}")
    return Rewritten(body if claim is None else None, attributes, size)


def rewrite(message: Stored, after: Rewritten, gathering: Gathering) -> None:
    """Change a message in the open group; whoever calls this tells its queue that it changed."""
    if after.body is not None and after.body != message.body:
        if message.row:
            gathering.rewritten[message.row] = after.body
            if message.shared:
                gathering.releases[message.shared] = gathering.releases.get(message.shared, 0) + 1
        message.shared = 0
        message.body = after.body
        message.body_crc = None
        gathering.size += len(after.body)
    message.attributes = after.attributes
    message.size = after.size
    if message.headers and SIGNED in message.headers:
        # The signature was that of what was posted; who posts it now signs it anew.
        message.headers = {name: value for name, value in message.headers.items() if name != SIGNED}


def change_of(message: Stored, after: Rewritten) -> Change:
    """What an operator is shown of it."""
    before = _seen(message, message.body, message.attributes)
    return Change(message.id, before, _seen(message, after.body, after.attributes))


def _seen(message: Stored, body: bytes | None, attributes: dict[str, AttributeValue] | None) -> Seen:
    size = message.claim.size if message.claim is not None else len(body or b"")
    return Seen((body or b"")[:SHOWN_BYTES], size, _digest(message, body), attributes or {})


def _digest(message: Stored, body: bytes | None) -> str:
    return message.claim.digest[:16] if message.claim is not None else fingerprint(body or b"")


class Fitting:
    """An edit of many letters: what it makes of each, and how many it does not fit."""

    def __init__(self, edit: Edit | None, spec: QueueSpec) -> None:
        self._edit = edit
        self._spec = spec
        self.unfit = 0
        self.reason = ""
        """Why it does not fit the first of those."""
        self.changes: list[Change] = []

    def fit(self, letters: Iterable[Stored]) -> list[tuple[Stored, Rewritten | None]]:
        """Each letter that it fits, with what it becomes."""
        if self._edit is None:
            return [(message, None) for message in letters]
        fitting: list[tuple[Stored, Rewritten | None]] = []
        for message in letters:
            try:
                after = rewritten(self._edit, message, self._spec)
            except RefusedError as error:
                self.unfit += 1
                self.reason = self.reason or f"{message.id}: {error}"
                continue
            if len(self.changes) < SAMPLES:
                self.changes.append(change_of(message, after))
            fitting.append((message, after))
        return fitting

    @property
    def note(self) -> str:
        """What the audit says of those that it does not fit."""
        return f"the edit does not fit {self.unfit}, which stayed; {self.reason}" if self.unfit else ""


def digests_of(letters: Iterable[tuple[Stored, Rewritten | None]]) -> list[tuple[str, str]]:
    """Fingerprints of the bodies before and after, of letters that are edited."""
    return [(_digest(m, m.body), _digest(m, after.body)) for m, after in letters if after is not None]
