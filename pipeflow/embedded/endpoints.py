"""Endpoints of webhooks come and go: who confirmed, and who wants no more, is told in one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeflow.webhooks import SubscriptionFacts

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker


async def confirm(broker: EmbeddedBroker, topic: str, token: str) -> SubscriptionFacts:
    """Deliver to the subscription that this token was sent for, from now on."""
    nouns = broker.nouns
    nouns.topic(topic)
    confirmed = nouns.subscriptions.confirm(topic, token, broker.clock.now())
    await broker.committed()
    which = (topic, confirmed.target)
    known = nouns.subscriptions.webhooks(broker.clock.now())
    return next(each for each in known if (each.topic, each.webhook) == which)


async def unsubscribe(broker: EmbeddedBroker, arn: str, undo: bool) -> SubscriptionFacts | None:
    """Deliver no more to a subscription, or again, and tell its endpoint; what is known of it then."""
    now = broker.clock.now()
    told = broker.nouns.subscriptions.unsubscribe(arn, undo, now)
    if told is not None:
        broker.inlet.send(*told, now)
        broker.after_intake((told[0],))
    await broker.committed()
    return next((each for each in broker.nouns.subscriptions.webhooks(now) if each.arn == arn), None)
