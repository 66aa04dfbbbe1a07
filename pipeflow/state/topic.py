"""One topic: who is subscribed, what it refuses, and what each target is given of a publish.

Pure and synchronous. A subscription sees what is published after it was made (SNS: T29); a message that no filter lets
through is accepted all the same (T80), and neither retried nor dead-lettered (T49). Which publish repeats an earlier
one is the business of the window of its owner: here is only the id it goes by (T70).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from operator import attrgetter

import msgspec

from pipeflow.errors import ConfigurationError
from pipeflow.filters import Subject
from pipeflow.messages import Outgoing, Refused
from pipeflow.names import valid_group
from pipeflow.specs import Subscription, TopicSpec, archive_of
from pipeflow.state.sieve import Entry, Sieve
from pipeflow.state.wishes import unfulfillable
from pipeflow.webhooks import TEXTS


def text_for(message: Outgoing, subscription: Subscription) -> bytes:
    """What a publish with one text per protocol says to this subscriber: its protocol's, else the body (SNS: T25)."""
    own = own_text(message, subscription)
    return message.body if own is None else own


def own_text(message: Outgoing, subscription: Subscription) -> bytes | None:
    """Of a publish with one text per protocol that of this subscriber's; None where that is the body."""
    return _texts(message).get(_protocol(subscription))


def _texts(message: Outgoing) -> dict[str, bytes]:
    texts = msgspec.json.decode((message.headers or {})[TEXTS], type=dict[str, str])
    return {protocol: text.encode("latin-1") for protocol, text in texts.items()}


def _protocol(subscription: Subscription) -> str:
    return "webhook" if subscription.endpoint else subscription.kind


def _in_its_words(message: Outgoing, subscription: Subscription, spec: TopicSpec) -> Outgoing:
    if subscription.target == archive_of(spec.name):
        return message  # all of it, to be replayed to anybody
    headers = {name: value for name, value in (message.headers or {}).items() if name != TEXTS}
    own = own_text(message, subscription)
    if own is None:
        return msgspec.structs.replace(message, headers=headers or None)
    return msgspec.structs.replace(message, body=own, headers=headers or None, claim=None)


class _Target:
    """One subscription, its place in the order they were made, and the policy it is filed under."""

    __slots__ = ("subscription", "fifo", "place", "entry")

    def __init__(self, subscription: Subscription, fifo: bool, place: int) -> None:
        self.subscription = subscription
        self.fifo = fifo
        self.place = place
        self.entry: Entry[_Target] | None = None


class TopicState:
    """The subscriptions of one topic, with their filters in a sieve."""

    __slots__ = ("spec", "_targets", "_last_place", "_open", "_sieve", "_pending", "_everybody")

    def __init__(self, spec: TopicSpec) -> None:
        self.spec = spec
        self._targets: dict[tuple[str, str], _Target] = {}
        self._last_place = 0
        self._open: dict[_Target, None] = {}
        """Those without a filter."""
        self._sieve: Sieve[_Target] = Sieve()
        self._pending: set[tuple[str, str]] = set()
        self._everybody: list[Subscription] | None = None
        """Those without a filter in order, once somebody asked."""

    @property
    def subscriptions(self) -> list[Subscription]:
        """In the order they were made."""
        return [target.subscription for target in self._targets.values()]

    def subscribe(self, subscription: Subscription, *, fifo: bool = False, pending: bool = False) -> None:
        """Deliver to this target from now on; `fifo` says whether the target is a FIFO queue.

        One that is `pending` is known and gets nothing: it has to be confirmed first (SNS: T11, T29).

        The same target again takes the new filter and form in its old place. ConfigurationError: a FIFO queue on a
        standard topic (SNS: T20); InvalidFilter: the policy.
        """
        if subscription.topic != self.spec.name:
            raise ConfigurationError(f"{subscription.target}: subscribes to {subscription.topic}, not {self.spec.name}")
        if fifo and not self.spec.fifo:
            raise ConfigurationError(
                f"{subscription.target}: a FIFO queue cannot subscribe to the standard topic {self.spec.name}; "
                f"make the topic fifo=True or the queue a standard one"
            )
        key = subscription.kind, subscription.target
        known = self._targets.get(key)
        self._last_place += 1
        target = _Target(subscription, fifo, self._last_place if known is None else known.place)
        if not pending:
            self._let_in(target)
        if known is not None:
            self._leave_out(known)
        self._targets[key] = target
        self._pending.discard(key)
        if pending:
            self._pending.add(key)

    def is_pending(self, subscription: Subscription) -> bool:
        """Whether it gets nothing yet."""
        return (subscription.kind, subscription.target) in self._pending

    def unsubscribe(self, subscription: Subscription) -> None:
        """Deliver nothing more to this target; no error when it was not subscribed (SNS: T18)."""
        known = self._targets.pop((subscription.kind, subscription.target), None)
        if known is not None:
            self._leave_out(known)
        self._pending.discard((subscription.kind, subscription.target))

    def _let_in(self, target: _Target) -> None:
        policy = target.subscription.filter
        if policy is None:
            self._open[target] = None
            self._everybody = None
        else:
            target.entry = self._sieve.add(policy, target)

    def _leave_out(self, target: _Target) -> None:
        if target.entry is not None:
            self._sieve.discard(target.entry, target)
        elif target in self._open:
            del self._open[target]
            self._everybody = None

    def refusal(self, message: Outgoing) -> Refused | None:
        """Why this publish is not accepted; None when it is (SNS: T69).

        SNS refuses a deduplication id on a standard topic (T28); that is its door's business, here it works.
        """
        group, dedup_id = message.group, message.dedup_id
        name = self.spec.name
        if message.ttl is not None or message.priority:
            refused = unfulfillable(name, message, fifo=self.spec.fifo)
            if refused is not None:
                return refused
        if message.key is not None:
            return Refused(
                "bad_key",
                f"{name}: key {message.key!r} is for messages of one queue, and a topic has copies in several; send"
                " to the queue",
            )
        if group is not None and not valid_group(group):
            return Refused(
                "InvalidGroup", f"{name}: group {group!r}: use 1 to 128 printable ASCII characters, no space"
            )
        if self.spec.fifo and group is None:
            return Refused("GroupRequired", f"{name}: a FIFO topic needs a group: publish(..., group=...)")
        if dedup_id is not None and not valid_group(dedup_id):
            return Refused(
                "InvalidDedup", f"{name}: dedup_id {dedup_id!r}: use 1 to 128 printable ASCII characters, no space"
            )
        return None

    def dedup_id(self, message: Outgoing) -> str | None:
        """What an accepted publish is deduplicated by: its own id, or the SHA-256 of the body (SNS: T70).

        None: by nothing. SNS refuses a FIFO publish without an id (T69); that is its door's business, here an id is
        the publisher's choice.
        """
        if message.dedup_id is None and self.spec.content_dedup and self.spec.fifo:
            return message.claim.digest if message.claim is not None else sha256(message.body).hexdigest()
        return message.dedup_id

    def route(self, message: Outgoing) -> Sequence[Subscription]:
        """The subscriptions whose filters let this message through, in the order they were made."""
        everybody = self._everybody
        if everybody is None:
            everybody = self._everybody = [target.subscription for target in _in_order(self._open)]
        if not self._sieve:
            return everybody
        # One subject for all: however many policies look at the body, it is parsed once.
        if message.headers is not None and TEXTS in message.headers:
            passing = self._passing_by_text(message)
        else:
            passing = self._sieve.passing(Subject(message.body, message.attributes))
        if not passing:
            return everybody
        if self._open:
            passing += self._open
        return [target.subscription for target in _in_order(passing)]

    def _passing_by_text(self, message: Outgoing) -> list[_Target]:
        texts = _texts(message)
        passing: list[_Target] = []
        for protocol in ("queue", "stream", "webhook"):
            subject = Subject(texts.get(protocol, message.body), message.attributes)
            found = self._sieve.passing(subject)
            passing += [target for target in found if _protocol(target.subscription) == protocol]
        return passing

    def addressed(self, message: Outgoing, subscription: Subscription, dedup_id: str | None = None) -> Outgoing:
        """The publish as one target is sent it; `dedup_id` is that of the publish (SNS: T28, T71).

        A FIFO queue takes group and dedup id, so that it needs no content deduplication of its own. A standard queue
        takes neither from a FIFO topic, and the group, for fairness, from a standard one. Streams take neither.
        """
        if message.headers is not None and TEXTS in message.headers:
            message = _in_its_words(message, subscription, self.spec)
        known = self._targets.get((subscription.kind, subscription.target))
        group = message.group
        if subscription.kind == "stream" or (self.spec.fifo and not (known is not None and known.fifo)):
            group, dedup_id = None, None
        elif not self.spec.fifo:
            dedup_id = None
        if group == message.group and dedup_id == message.dedup_id and message.checkpoint is None:
            return message
        return Outgoing(
            message.body,
            message.attributes,
            message.headers,
            group,
            dedup_id,
            message.delay,
            message.partition,
            None,  # the position of a source belongs to the publish, not to its copies
            message.id,
            message.claim,
            message.ttl,
            priority=message.priority,
        )


def _in_order(targets: Iterable[_Target]) -> list[_Target]:
    return sorted(targets, key=attrgetter("place"))
