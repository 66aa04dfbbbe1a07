"""Which endpoints have confirmed their subscription: before that they get nothing but the request to (SNS: T11, P15).

A record is kept where positions of sources are, in the group of what it belongs to: the request to confirm is queued in
the commit that makes the subscription pending. An endpoint that changes has to confirm again.
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
from pipeflow.webhooks import TOKEN, TOKEN_LIFE, TOPIC, SubscriptionFacts

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
        """Whether it gets nothing yet."""
        if not subscription.handshake:
            return False
        known = self._known.get(_name(subscription.topic, subscription.target))
        return known is None or known.endpoint != subscription.endpoint or known.confirmed_at is None

    def requests(
        self, subscriptions: Iterable[Subscription], now: float, idle: Mapping[str, bool]
    ) -> Iterator[tuple[str, Outgoing]]:
        """(queue, request to confirm) for each endpoint that is to be asked now; `idle`: queues that hold nothing.

        One that was asked keeps its token until that expires, so that whoever was told it can use it.
        """
        for subscription in subscriptions:
            if not self.pending(subscription):
                continue
            name = _name(subscription.topic, subscription.target)
            known = self._known.get(name)
            if known is None or known.endpoint != subscription.endpoint or known.expires <= now:
                asked = Confirmation(subscription.endpoint, new_secret(32).hex(), now, now + TOKEN_LIFE)
            elif idle.get(subscription.target, False) and known.requested_at + AGAIN <= now:
                asked = replace(known, requested_at=now)
            else:
                continue
            self._keep(name, asked)
            headers = {TOPIC: subscription.topic, TOKEN: asked.token}
            yield subscription.target, Outgoing(b"", headers=headers)

    def confirm(self, topic: str, token: str, subscriptions: Iterable[Subscription], now: float) -> Subscription:
        """The subscription that this token is for, confirmed from now on; the same again for the same token (T19).

        RefusedError: no subscription of this topic has that token, or not any more.
        """
        for subscription in subscriptions:
            if not subscription.handshake or subscription.topic != topic:
                continue
            name = _name(topic, subscription.target)
            known = self._known.get(name)
            if known is None or not compare_digest(known.token.encode(), token.encode(errors="replace")):
                continue
            if known.endpoint != subscription.endpoint or (known.confirmed_at is None and known.expires <= now):
                break
            if known.confirmed_at is None:
                self._keep(name, replace(known, confirmed_at=now))
            return subscription
        raise RefusedError(
            "InvalidToken",
            f"topic {topic}: no subscription waits for this token; a token holds for three days, and for the endpoint "
            "it was sent to: start the app again to have the endpoint asked anew",
        )

    def facts(self, subscriptions: Iterable[Subscription], now: float) -> list[SubscriptionFacts]:
        """Every webhook's subscription."""
        return [self._facts(subscription, now) for subscription in subscriptions if subscription.endpoint]

    def _facts(self, subscription: Subscription, now: float) -> SubscriptionFacts:
        known = self._known.get(_name(subscription.topic, subscription.target))
        pending = self.pending(subscription)
        stale = known is not None and known.expires <= now
        return SubscriptionFacts(
            subscription.topic,
            subscription.target,
            subscription_arn(subscription.topic, subscription.target),
            subscription.endpoint,
            "confirmed" if not pending else "expired" if stale else "pending",
            None if known is None or pending else known.confirmed_at,
        )

    def _keep(self, name: str, known: Confirmation) -> None:
        self._known[name] = known
        if not self._journal.instant:
            self._gathering.sources[name] = msgspec.msgpack.encode(known)


def _name(topic: str, webhook: str) -> str:
    return f"{_PREFIX}{topic}/{webhook}"
