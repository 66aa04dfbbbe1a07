"""What a web server answers for an app: the URL by which an endpoint confirms its subscription (SNS: T19).

An ASGI callable, to be mounted in any web application; pipeflow brings no server of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from pipeflow.app import App
from pipeflow.errors import ConfigurationError, NotFound, RefusedError, Unavailable
from pipeflow.state.envelope import topic_arn

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CONFIRMED = (
    '<ConfirmSubscriptionResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><ConfirmSubscriptionResult>'
    "<SubscriptionArn>{arn}</SubscriptionArn></ConfirmSubscriptionResult></ConfirmSubscriptionResponse>"
)


def subscriptions(app: App) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Answers `GET ?Action=ConfirmSubscription&TopicArn=...&Token=...` for the webhooks of an open app.

    Mount it where `app.webhook(..., public_url=...)` says. The token is the only credential: 200 with the
    subscription's ARN, 403 for a token that is none, 400 for anything else. It never says which topics there are.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, text = await _answer(app, scope)
        headers = [
            (b"content-type", b"text/xml"),
            (b"content-length", b"%d" % len(text)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return answer


async def _answer(app: App, scope: Scope) -> tuple[int, bytes]:
    asked = {name: values[-1] for name, values in parse_qs(scope.get("query_string", b"").decode("latin-1")).items()}
    if scope["method"] != "GET" or asked.get("Action") != "ConfirmSubscription":
        return 400, b"<Error>only GET with Action=ConfirmSubscription is answered here</Error>"
    arn, token = asked.get("TopicArn", ""), asked.get("Token", "")
    webhooks = [webhook for router in app.walk() for webhook in router.webhooks]
    topic = arn.rpartition(":")[2]
    webhook = next((webhook for webhook in webhooks if webhook.takes(topic)), None)
    if webhook is None or topic_arn(topic) != arn:
        return 403, b"<Error>Invalid token</Error>"
    try:
        confirmed = await webhook.binding.runtime.store.confirm(topic, token)
    except (RefusedError, NotFound):
        return 403, b"<Error>Invalid token</Error>"
    except (ConfigurationError, Unavailable):
        return 503, b"<Error>the app is not open</Error>"
    return 200, _CONFIRMED.format(arn=confirmed.arn).encode()
