"""Another body or other attributes for a message that lies in a queue; its id, its place and its counts stay.

The new body is the message's own from then on, with it or kept aside as its size says: what other queues share with it
stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pipeflow.edits import Edit, apply, fingerprint
from pipeflow.embedded.claims import Keeping
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.weighing import unfit, weigh
from pipeflow.errors import RefusedError
from pipeflow.letters import SAMPLES, SHOWN_BYTES, Change, Seen
from pipeflow.messages import AttributeValue, Claim, Outgoing
from pipeflow.specs import QueueSpec
from pipeflow.state.stored import Stored
from pipeflow.webhooks import SIGNED

EDITED_BYTES = 64 << 20
"""Of a body of which parts are changed: all of it is in memory twice, and passed over in one step of the loop."""
PORTION_BYTES = 8 << 20
"""Of new bodies that go into one commit."""


class Rewritten(Struct, frozen=True):
    """What a message becomes."""

    body: bytes
    """Empty where it is kept aside."""
    claim: Claim | None
    """Where it is kept aside; None: it lies with its message."""
    attributes: dict[str, AttributeValue] | None
    size: int


async def rewritten(edit: Edit, message: Stored, spec: QueueSpec, keeping: Keeping) -> Rewritten:
    """What an edit makes of a message; suspends only where a body is kept aside.

    RefusedError: it does not fit, or the queue would not take the outcome. Unavailable: a body cannot be reached now.
    """
    claim = message.claim
    if claim is not None and not edit.of_body:
        _, attributes = apply(edit, b"", message.attributes)
        return Rewritten(b"", claim, attributes, _checked(spec, message, Outgoing(b"", attributes, claim=claim)))
    body, attributes = apply(edit, await _before(edit, message, keeping), message.attributes)
    size = _checked(spec, message, Outgoing(body, attributes))
    kept = await keeping.keep(body)
    return Rewritten(body if kept is None else b"", kept, attributes, size)


async def _before(edit: Edit, message: Stored, keeping: Keeping) -> bytes:
    claim = message.claim
    size = len(message.body or b"") if claim is None else claim.size
    if edit.body is not None:
        return b""  # nobody asks what it was, so it may even be lost
    if size > EDITED_BYTES:
        raise RefusedError(
            "Unfit", f"its body has {size} bytes, and parts are changed of up to {EDITED_BYTES}; give a whole body"
        )
    return message.body or b"" if claim is None else await keeping.read(claim)


def _checked(spec: QueueSpec, message: Stored, outgoing: Outgoing) -> int:
    """Its size, if its queue takes it."""
    refused = unfit(spec.name, outgoing)
    if refused is not None:
        raise RefusedError(refused.code, refused.reason)
    size = weigh(outgoing)
    if size > max(spec.max_body, message.size):
        raise RefusedError("too_large", f"edited it has {size} bytes, the limit of {spec.name} is {spec.max_body}")
    return size


def rewrite(message: Stored, after: Rewritten, gathering: Gathering) -> None:
    """Change a message in the open group; whoever calls this tells its queue that it changed."""
    claim, before = after.claim, message.claim
    if claim != before or (claim is None and after.body != message.body):
        if message.row:
            gathering.rewritten[message.row] = after.body if claim is None else claim
            if message.shared:
                gathering.releases[message.shared] = gathering.releases.get(message.shared, 0) + 1
                if before is not None:
                    gathering.freed.fire()
        message.claim, message.shared = claim, 0 if claim is None else claim.number
        message.body, message.body_crc = (after.body, None) if claim is None else (None, claim.crc)
        gathering.size += len(after.body)
    message.attributes = after.attributes
    message.size = after.size
    if message.headers and SIGNED in message.headers:
        # The signature was that of what was posted; who posts it now signs it anew.
        message.headers = {name: value for name, value in message.headers.items() if name != SIGNED}


def seen(message: Stored) -> Seen:
    """What an operator is shown of a message before it is changed."""
    return _seen(message.body or b"", message.claim, message.attributes)


def change_of(message: Stored, after: Rewritten) -> Change:
    """What an operator is shown of it."""
    return Change(message.id, seen(message), _seen(after.body, after.claim, after.attributes))


def _seen(body: bytes, claim: Claim | None, attributes: dict[str, AttributeValue] | None) -> Seen:
    size = claim.size if claim is not None else len(body)
    return Seen(body[:SHOWN_BYTES], size, _digest(body, claim), attributes or {})


def _digest(body: bytes, claim: Claim | None) -> str:
    return claim.digest[:16] if claim is not None else fingerprint(body)


class Fitting:
    """An edit of many letters: what it makes of each, and how many it does not fit."""

    def __init__(self, edit: Edit | None, spec: QueueSpec) -> None:
        self._edit = edit
        self._spec = spec
        self.unfit = 0
        self.reason = ""
        """Why it does not fit the first of those."""
        self.changes: list[Change] = []

    async def fit(
        self, letters: list[Stored], keeping: Keeping
    ) -> tuple[list[tuple[Stored, Rewritten | None]], list[Stored]]:
        """Each letter that it fits, with what it becomes, as many as one commit takes; and those behind them."""
        if self._edit is None:
            return [(message, None) for message in letters], []
        fitting: list[tuple[Stored, Rewritten | None]] = []
        room = PORTION_BYTES
        for n, message in enumerate(letters):
            if room <= 0:
                return fitting, letters[n:]
            try:
                after = await rewritten(self._edit, message, self._spec, keeping)
            except RefusedError as error:
                self.unfit += 1
                self.reason = self.reason or f"{message.id}: {error}"
                continue
            room -= len(after.body)
            if len(self.changes) < SAMPLES:
                self.changes.append(change_of(message, after))
            fitting.append((message, after))
        return fitting, []

    @property
    def note(self) -> str:
        """What the audit says of those that it does not fit."""
        return f"the edit does not fit {self.unfit}, which stayed; {self.reason}" if self.unfit else ""


def digests_of(letters: Iterable[tuple[Stored, Rewritten | None]]) -> list[tuple[str, str]]:
    """Fingerprints of the bodies before and after, of letters that are edited."""
    return [
        (_digest(m.body or b"", m.claim), _digest(after.body, after.claim)) for m, after in letters if after is not None
    ]
