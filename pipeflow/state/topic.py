"""One topic: who is subscribed, what it refuses, and what each target is given of a publish.

Pure and synchronous. A subscription sees what is published after it was made (SNS: T29); a message that no filter lets
through is accepted all the same (T80), and neither retried nor dead-lettered (T49). Which publish repeats an earlier
one is the business of the window of its owner: here is only the id it goes by (T70).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec

from pipeflow.errors import ConfigurationError
from pipeflow.filters import Subject, compile_filter
from pipeflow.messages import Outgoing, Refused
from pipeflow.names import valid_group
from pipeflow.specs import Subscription, TopicSpec, archive_of
from pipeflow.webhooks import TEXTS


def text_for(message: Outgoing, subscription: Subscription) -> bytes:
    """What a publish with one text per protocol says to this subscriber: its protocol's, else the body (SNS: T25)."""
    texts = msgspec.json.decode((message.headers or {})[TEXTS], type=dict[str, str])
    text = texts.get("webhook" if subscription.endpoint else subscription.kind)
    return message.body if text is None else text.encode("latin-1")


def _own_text(message: Outgoing, subscription: Subscription, spec: TopicSpec) -> Outgoing:
    if subscription.target == archive_of(spec.name):
        return message  # all of it, to be replayed to anybody
    headers = {name: value for name, value in (message.headers or {}).items() if name != TEXTS}
    return msgspec.structs.replace(message, body=text_for(message, subscription), headers=headers or None)


_Target = tuple[Subscription, bool, Callable[[Subject], bool] | None]


class TopicState:
    """The subscriptions of one topic, with their filters compiled."""

    __slots__ = ("spec", "_targets", "_filtered", "_pending", "_routed")

    def __init__(self, spec: TopicSpec) -> None:
        self.spec = spec
        self._targets: dict[tuple[str, str], _Target] = {}
        self._filtered = False
        self._pending: set[tuple[str, str]] = set()
        self._routed: list[_Target] = []

    @property
    def subscriptions(self) -> list[Subscription]:
        """In the order they were made."""
        return [subscription for subscription, _, _ in self._targets.values()]

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
        matches = None if subscription.filter is None else compile_filter(subscription.filter).matches
        key = subscription.kind, subscription.target
        self._targets[key] = (subscription, fifo, matches)
        self._pending.discard(key)
        if pending:
            self._pending.add(key)
        self._look()

    def is_pending(self, subscription: Subscription) -> bool:
        """Whether it gets nothing yet."""
        return (subscription.kind, subscription.target) in self._pending

    def unsubscribe(self, subscription: Subscription) -> None:
        """Deliver nothing more to this target; no error when it was not subscribed (SNS: T18)."""
        self._targets.pop((subscription.kind, subscription.target), None)
        self._pending.discard((subscription.kind, subscription.target))
        self._look()

    def _look(self) -> None:
        self._routed = [target for key, target in self._targets.items() if key not in self._pending]
        self._filtered = any(matches is not None for _, _, matches in self._routed)

    def refusal(self, message: Outgoing) -> Refused | None:
        """Why this publish is not accepted; None when it is (SNS: T28, T69)."""
        group, dedup_id = message.group, message.dedup_id
        name = self.spec.name
        if group is not None and not valid_group(group):
            return Refused(
                "InvalidGroup", f"{name}: group {group!r}: use 1 to 128 printable ASCII characters, no space"
            )
        if not self.spec.fifo:
            if dedup_id is not None:
                return Refused(
                    "DedupNotSupported",
                    f"{name}: a standard topic does not deduplicate: leave dedup_id off, or make the topic fifo=True",
                )
            return None
        if group is None:
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
        if not self.spec.fifo:
            return None
        if message.dedup_id is None and self.spec.content_dedup:
            return sha256(message.body).hexdigest()
        return message.dedup_id

    def route(self, message: Outgoing) -> list[Subscription]:
        """The subscriptions whose filters let this message through, in the order they were made."""
        if not self._filtered:
            return [subscription for subscription, _, _ in self._routed]
        if message.headers is not None and TEXTS in message.headers:
            return [
                subscription
                for subscription, _, matches in self._routed
                if matches is None or matches(Subject(text_for(message, subscription), message.attributes))
            ]
        # One subject for all: however many policies look at the body, it is parsed once.
        subject = Subject(message.body, message.attributes)
        return [subscription for subscription, _, matches in self._routed if matches is None or matches(subject)]

    def addressed(self, message: Outgoing, subscription: Subscription, dedup_id: str | None = None) -> Outgoing:
        """The publish as one target is sent it; `dedup_id` is that of the publish (SNS: T28, T71).

        A FIFO queue takes group and dedup id, so that it needs no content deduplication of its own. A standard queue
        takes neither from a FIFO topic, and the group, for fairness, from a standard one. Streams take neither.
        """
        if message.headers is not None and TEXTS in message.headers:
            message = _own_text(message, subscription, self.spec)
        known = self._targets.get((subscription.kind, subscription.target))
        group = message.group
        if subscription.kind == "stream" or (self.spec.fifo and not (known is not None and known[1])):
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
        )
