"""A webhook: what topics publish is posted to an HTTP endpoint. Made by `app.webhook(name, *topics, url=...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeflow.binding import Binding
from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.names import is_meant
from pipeflow.specs import Endpoint, QueueSpec
from pipeflow.topic import Topic, TopicPattern
from pipeflow.webhooks import DeliveryPolicy, Retries, Signing, SubscriptionFacts, effective

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pipeflow.engine.runtime import Runtime
    from pipeflow.engine.webhooks import WebhookPlan

__all__ = ["Webhook"]


class Webhook:
    """An endpoint that subscribes to topics. It gets nothing but a request to confirm until it has confirmed."""

    __slots__ = (
        "spec", "url", "topics", "raw", "retry", "endpoint", "timeout", "signing", "public_url", "concurrency",
        "binding", "retries", "otherwise",
    )  # fmt: skip

    def __init__(
        self,
        spec: QueueSpec,
        url: str,
        topics: Sequence[Topic[Any] | TopicPattern[Any]],
        *,
        raw: bool,
        retry: DeliveryPolicy | None,
        endpoint: Endpoint,
        timeout: float,
        signing: Signing | None,
        public_url: str | None,
        concurrency: int,
        place: str,
    ) -> None:
        self.spec = spec
        """The queue that its messages wait in."""
        self.url = url
        self.topics = topics
        """What it subscribes to."""
        self.raw = raw
        self.retry = retry
        self.endpoint = endpoint
        self.timeout = timeout
        self.signing = signing
        self.public_url = public_url
        self.concurrency = concurrency
        self.binding = Binding(f"webhook {spec.name}", place)
        self.retries: dict[str, Retries] = {
            topic.name: self._policy(topic) for topic in topics if isinstance(topic, Topic)
        }
        """By topic that it names: the policy in effect (SNS: T62)."""
        self.otherwise: Retries = effective(None, retry)
        """The policy for topics of other programs, which a pattern names."""

    @property
    def name(self) -> str:
        """As declared, with its router's prefix; its queue is called the same."""
        return self.spec.name

    async def confirm(self, token: str) -> None:
        """Confirm with the token that the endpoint was sent: from now on it gets what is published (SNS: T19).

        RefusedError: the token is none of this webhook's, or three days old.
        """
        store = self.binding.runtime.store
        for each in await self.subscriptions():
            try:
                await store.confirm(each.topic, token)
            except RefusedError as error:
                if error.code != "InvalidToken":
                    raise
            else:
                return
        raise RefusedError(
            "InvalidToken",
            f"webhook {self.name}: no subscription waits for this token; a token holds for three days, and for the "
            "endpoint it was sent to",
        )

    def takes(self, topic: str) -> bool:
        """Whether it subscribes to a topic of this name."""
        return any(is_meant(topic, each.name) for each in self.topics)

    async def unsubscribe(self) -> None:
        """End its subscription to each of its topics, and tell the endpoint so; restarts of the app begin none anew.

        The endpoint is sent a token that brings it back, by `confirm`, within three days (SNS: T54).
        """
        for each in await self.subscriptions():
            await self.binding.runtime.store.unsubscribe(each.arn)

    async def subscriptions(self) -> list[SubscriptionFacts]:
        """What each of its topics knows of it: confirmed, pending, expired or unsubscribed."""
        return [each for each in await self.binding.runtime.store.webhooks() if each.webhook == self.name]

    def plan(self, topics: Iterable[Topic[Any]]) -> WebhookPlan:
        """What the engine is to run, in an app of these topics."""
        from pipeflow.engine.webhooks import WebhookPlan  # for apps that have one

        try:
            retries = {topic.name: self._policy(topic) for topic in topics if self.takes(topic.name)}
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.binding.place}: webhook {self.name}: {error}") from error
        return WebhookPlan(
            self.name,
            self.binding.place,
            retries,
            self.otherwise,
            self.raw,
            self.public_url,
            self.concurrency,
            self.timeout,
        )

    def _policy(self, topic: Topic[Any]) -> Retries:
        return effective(topic.retry, self.retry, override=topic.retry_override)

    def bind(self, runtime: Runtime) -> None:
        """Talk to this runtime from now on."""
        self.binding.open(runtime)

    def unbind(self, runtime: Runtime) -> None:
        """Talk to it no more."""
        self.binding.close(runtime)

    def __repr__(self) -> str:
        return f"<webhook {self.spec.name}>"
