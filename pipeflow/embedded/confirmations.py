"""Which endpoints have confirmed their subscription: before that they get nothing but the request to (SNS: T11, P15).

A record is kept where positions of sources are, in the group of what it belongs to: the request to confirm is queued in
the commit that makes the subscription pending, and the word that it has ended in the commit that ends it (T54). An
endpoint that changes has to confirm again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hmac import compare_digest

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeflow.embedded.group import Gathering
from pipeflow.embedded.journal import Journal
from pipeflow.errors import RefusedError
from pipeflow.messages import Outgoing
from pipeflow.names import new_secret
from pipeflow.specs import Subscription
from pipeflow.state.envelope import subscription_arn
from pipeflow.webhooks import LEFT, TOKEN, TOKEN_LIFE, TOPIC, SubscriptionFacts

AGAIN = 300.0
"""Seconds before a start of the app asks an endpoint again that has not confirmed."""
_PREFIX = "confirmation/"


class Confirmation(Struct, frozen=True, array_like=True):
    """What is known of one subscription that has to be confirmed."""

    endpoint: str
    token: str
    requested_at: float
    expires: float
    confirmed_at: float | None = None
    left_at: float | None = None
    """When it was unsubscribed; the token is then the one that brings it back."""


class Confirmations:
    """By topic and webhook: who confirmed, and with which token the others may."""

    def __init__(self, recovered: Mapping[str, bytes], gathering: Gathering, journal: Journal) -> None:
        self._gathering = gathering
        self._journal = journal
        self._known = {
            name: msgspec.msgpack.decode(kept, type=Confirmation)
            for name, kept in recovered.items()
            if name.startswith(_PREFIX)
        }

    def pending(self, subscription: Subscription) -> bool:
        """Whether it gets nothing: not yet, or not any more."""
        known = self._of(subscription)
        if not subscription.handshake:
            return known is not None and known.left_at is not None
        return known is None or known.confirmed_at is None

    def requests(
        self, subscriptions: Iterable[Subscription], now: float, idle: Mapping[str, bool]
    ) -> Iterator[tuple[str, Outgoing]]:
        """(queue, request to confirm) for each endpoint that is to be asked now; `idle`: queues that hold nothing.

        One that was asked keeps its token until that expires, so that whoever was told it can use it.
        """
        for subscription in subscriptions:
            if not self.pending(subscription):
                continue
            known = self._of(subscription)
            if known is None or (known.expires <= now and known.left_at is None):
                yield subscription.target, self._ask(subscription, now)
            elif known.left_at is None and idle.get(subscription.target, False) and known.requested_at + AGAIN <= now:
                yield subscription.target, self._ask(subscription, now, known.token, known.expires)

    def confirm(self, topic: str, token: str, subscriptions: Iterable[Subscription], now: float) -> Subscription:
        """The subscription that this token is for, confirmed from now on; the same again for the same token (T19).

        RefusedError: no subscription of this topic has that token, or not any more.
        """
        for subscription in subscriptions:
            known = self._of(subscription) if subscription.topic == topic else None
            if known is None or not compare_digest(known.token.encode(), token.encode(errors="replace")):
                continue
            if known.confirmed_at is None and known.expires <= now:
                break
            if known.confirmed_at is None:
                self._keep(subscription, replace(known, confirmed_at=now, left_at=None))
            return subscription
        raise RefusedError(
            "InvalidToken",
            f"topic {topic}: no subscription waits for this token; a token holds for three days, and for the endpoint "
            "it was sent to: start the app again to have the endpoint asked anew, or, if it was unsubscribed, use "
            "pipeflow topics unsubscribe --undo",
        )

    def leave(self, subscription: Subscription, now: float) -> Outgoing | None:
        """Deliver nothing more to this endpoint; what it is to be told: that, and the token that brings it back.

        None where there is nothing to tell: it never confirmed, or has left before.
        """
        known = self._of(subscription)
        if known is not None and known.left_at is not None:
            return None
        told = not self.pending(subscription)
        left = Confirmation(subscription.endpoint, new_secret(32).hex(), now, now + TOKEN_LIFE, None, now)
        self._keep(subscription, left)
        return _request(subscription, left.token, {LEFT: "1"}) if told else None

    def come_back(self, subscription: Subscription, now: float) -> Outgoing | None:
        """Have an endpoint that has left asked to confirm; or, where nobody asks, deliver to it at once."""
        known = self._of(subscription)
        if known is None or known.left_at is None:
            return None
        if subscription.handshake:
            return self._ask(subscription, now)
        self._keep(subscription, replace(known, confirmed_at=now, left_at=None))
        return None

    def facts(self, subscriptions: Iterable[Subscription], now: float) -> list[SubscriptionFacts]:
        """What is known of each of these subscriptions of endpoints."""
        return [self._facts(subscription, now) for subscription in subscriptions]

    def _facts(self, subscription: Subscription, now: float) -> SubscriptionFacts:
        known = self._of(subscription)
        pending = self.pending(subscription)
        stale = known is not None and known.expires <= now
        left = known is not None and known.left_at is not None
        return SubscriptionFacts(
            subscription.topic,
            subscription.target,
            subscription_arn(subscription.topic, subscription.target),
            subscription.endpoint,
            "unsubscribed" if left else "confirmed" if not pending else "expired" if stale else "pending",
            None if known is None or pending else known.confirmed_at,
        )

    def forget(self, *, topic: str | None = None, webhook: str | None = None) -> None:
        """Of what is gone nobody has confirmed: another of its name asks anew (SNS: T4)."""
        for name in [*self._known]:
            of_topic, _, of_webhook = name.removeprefix(_PREFIX).partition("/")
            if of_topic == topic or of_webhook == webhook:
                del self._known[name]
                if not self._journal.instant:
                    self._gathering.sources[name] = None

    def _of(self, subscription: Subscription) -> Confirmation | None:
        """What is known of it, while its endpoint is the same."""
        known = self._known.get(_name(subscription.topic, subscription.target))
        return None if known is None or known.endpoint != subscription.endpoint else known

    def _ask(
        self, subscription: Subscription, now: float, token: str | None = None, expires: float | None = None
    ) -> Outgoing:
        asked = Confirmation(subscription.endpoint, token or new_secret(32).hex(), now, expires or now + TOKEN_LIFE)
        self._keep(subscription, asked)
        return _request(subscription, asked.token, {})

    def _keep(self, subscription: Subscription, known: Confirmation) -> None:
        name = _name(subscription.topic, subscription.target)
        self._known[name] = known
        if not self._journal.instant:
            self._gathering.sources[name] = msgspec.msgpack.encode(known)


def _request(subscription: Subscription, token: str, more: dict[str, str]) -> Outgoing:
    return Outgoing(b"", headers={TOPIC: subscription.topic, TOKEN: token, **more})


def _name(topic: str, webhook: str) -> str:
    return f"{_PREFIX}{topic}/{webhook}"
