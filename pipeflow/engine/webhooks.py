"""One webhook's deliveries: a message of its queue becomes a request, and the answer a settlement.

The queue keeps the time between attempts, over restarts too. What is kept here is about the endpoint as a whole, for as
long as the process lives: how many requests a second it takes, and whether it takes any at the moment. A message that
waits for that has not been attempted.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf

import msgspec
from msgspec import Struct

from pipeflow.clock import Clock, Signal
from pipeflow.engine.outcome import RetryPolicy
from pipeflow.engine.plan import HandlerPlan
from pipeflow.errors import Reject, Retry
from pipeflow.messages import Delivery
from pipeflow.names import Chance
from pipeflow.state.envelope import subscription_arn, timestamp, topic_arn, with_signature
from pipeflow.webhooks import LEFT, SIGNED, TOKEN, TOPIC, Kind, Notice, Poster, Retries, Verdict

logger = logging.getLogger("pipeflow")

FAILURES = 5
"""Attempts in a row that fail before an endpoint is left alone for a while."""
LONGEST_REST = 60.0

_CONFIRM = (
    "You have chosen to subscribe to the topic {arn}.\n"
    "To confirm the subscription, visit the SubscribeURL included in this message."
)
_LEFT = (
    "You have chosen to deactivate subscription {arn}.\n"
    "To cancel this operation and restore the subscription, visit the SubscribeURL included in this message."
)
_UNTOLD: dict[str, str] = {
    "SubscriptionConfirmation": "%s: could not ask the endpoint to confirm: %s; it is asked again when the app starts",
    "UnsubscribeConfirmation": "%s: could not tell the endpoint that it is unsubscribed: %s; it is, all the same",
}


class WebhookPlan(Struct, frozen=True):
    """One webhook, ready to deliver."""

    queue: str
    place: str
    retries: dict[str, Retries]
    """By topic: what is in effect there."""
    otherwise: Retries = Retries()
    """In effect for topics that a pattern names and another program declared."""
    raw: bool = False
    public_url: str | None = None
    concurrency: int = 10
    timeout: float = 15.0


class Undeliverable(Reject):
    """It goes to the dead letters, as its endpoint would have got it: `headers` are kept with it (SNS: T65)."""

    def __init__(self, reason: str, headers: dict[str, str]) -> None:
        super().__init__(reason)
        self.headers = headers or None


class Webhook:
    """Delivers what its queue hands out."""

    def __init__(self, plan: WebhookPlan, poster: Poster, clock: Clock, chance: Chance) -> None:
        self._plan = plan
        self._poster = poster
        self._chance = chance
        self._breaker = Breaker(clock)
        policies = (*plan.retries.values(), plan.otherwise)
        rates = [each.max_per_second for each in policies if each.max_per_second is not None]
        self._pace = Pace(clock, min(rates)) if rates else None

    def handler(self) -> HandlerPlan:
        """What the engine is to run for its queue."""
        plan = self._plan
        return HandlerPlan(
            plan.queue,
            f"webhook {plan.queue} ({plan.place})",
            RetryPolicy(None),
            handle=self.deliver,
            concurrency=plan.concurrency,
        )

    async def close(self) -> None:
        """Hang up."""
        await self._poster.close()

    async def deliver(self, delivery: Delivery) -> None:
        """One attempt. Returns when the endpoint took it; Retry: later; Undeliverable: to the dead letters."""
        await self._breaker.enter()
        verdict: Verdict | None = None
        try:
            if self._pace is not None:
                await self._pace.turn()
            notice, headers = self._notice(delivery)
            verdict = await self._poster.post(notice)
        finally:
            # A client error is an answer too: the endpoint is there.
            self._breaker.left(None if verdict is None else verdict.delivered or verdict.permanent)
        if not verdict.delivered:
            self._failed(delivery, notice, verdict, headers)

    def _failed(self, delivery: Delivery, notice: Notice, verdict: Verdict, headers: dict[str, str]) -> None:
        retries = self._retries(delivery)
        if not verdict.permanent and delivery.attempt <= retries.retries:
            raise Retry(retries.delay(delivery.attempt, self._chance.roll()), verdict.reason)
        if notice.kind != "Notification":
            logger.error(_UNTOLD[notice.kind], self._plan.queue, verdict.reason)
            return
        raise Undeliverable(verdict.reason, headers)

    def _retries(self, delivery: Delivery) -> Retries:
        return self._plan.retries.get(delivery.headers.get(TOPIC, ""), self._plan.otherwise)

    def _notice(self, delivery: Delivery) -> tuple[Notice, dict[str, str]]:
        """The request, and the headers that its dead letter is to keep."""
        topic = delivery.headers.get(TOPIC, "")
        arn, subscription = topic_arn(topic), subscription_arn(topic, delivery.queue)
        content_type = self._retries(delivery).content_type
        token = delivery.headers.get(TOKEN)
        if token is not None and LEFT in delivery.headers:
            body = self._confirmation("UnsubscribeConfirmation", delivery, arn, token, _LEFT.format(arn=subscription))
            return Notice("UnsubscribeConfirmation", delivery.id, arn, body, subscription, False, content_type), {}
        if token is not None:
            body = self._confirmation("SubscriptionConfirmation", delivery, arn, token, _CONFIRM.format(arn=arn))
            return Notice("SubscriptionConfirmation", delivery.id, arn, body, content_type=content_type), {}
        body, headers = delivery.body, dict[str, str]()
        if not self._plan.raw:
            signed = self._poster.sign(msgspec.json.decode(body, type=dict[str, object]))
            if signed:
                body = with_signature(body, signed)
                headers = {SIGNED: msgspec.json.encode(signed).decode()}
        return Notice("Notification", delivery.id, arn, body, subscription, self._plan.raw, content_type), headers

    def _confirmation(self, kind: Kind, delivery: Delivery, arn: str, token: str, said: str) -> bytes:
        """The body of a message with a token (SNS: T54)."""
        document = {"Type": kind, "MessageId": delivery.id, "Token": token, "TopicArn": arn, "Message": said}
        if self._plan.public_url is not None:
            query = f"Action=ConfirmSubscription&TopicArn={arn}&Token={token}"
            document["SubscribeURL"] = f"{self._plan.public_url}?{query}"
        document["Timestamp"] = timestamp(delivery.sent_at)
        return msgspec.json.encode({**document, **self._poster.sign(document)})


class Breaker:
    """Leaves an endpoint alone that keeps failing: then one request is made, and the others wait for what it meets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._rest_until = 0.0
        self._probing = False
        self._waiting: deque[Signal] = deque()

    async def enter(self) -> None:
        """Return when a request may be made; `left` must follow."""
        while self._failures >= FAILURES:
            if not self._probing and self._clock.now() >= self._rest_until:
                self._probing = True
                return
            signal = Signal()
            self._waiting.append(signal)
            try:
                await self._clock.wait(signal, inf if self._probing else self._rest_until)
            finally:
                if signal in self._waiting:
                    self._waiting.remove(signal)

    def left(self, answered: bool | None) -> None:
        """What a request met: an answer, none, or (None) it was never made."""
        self._probing = False
        if answered:
            self._failures = 0
        elif answered is not None:
            self._failures += 1
            rest = min(LONGEST_REST, 2.0 ** min(self._failures - FAILURES, 10))
            self._rest_until = self._clock.now() + (rest if self._failures >= FAILURES else 0.0)
        waiting, self._waiting = self._waiting, deque()
        for signal in waiting:
            signal.fire()


class Pace:
    """At most so many requests a second, evenly (SNS: T61)."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock = clock
        self._gap = 1.0 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Return when it is this request's turn."""
        at = max(self._next, self._clock.now())
        self._next = at + self._gap
        if at > self._clock.now():
            await self._clock.wait(Signal(), at)
