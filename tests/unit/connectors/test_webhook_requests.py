"""What an endpoint of a webhook gets over real HTTP, and what its answers mean (SNS: T53, T57, T59, T65)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from http_endpoint import Behaviour, Hang, Request, Reset, answer, closed_port, http_endpoint
from scripted_egress import Scripted

from pipeflow import App, ConfigurationError, Signing
from pipeflow.asgi import Scope, subscriptions
from pipeflow.clock import VirtualClock
from pipeflow.messages import Want
from pipeflow.specs import Endpoint
from pipeflow.webhook import Webhook
from pipeflow.webhooks import Notice, Verdict
from pipeflow_connectors.egress import Answer, Kind
from pipeflow_connectors.webhook import HttpPoster, verdict_on

ARN = "arn:aws:sns:us-east-1:000000000000:orders"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOTICE = Notice("Notification", "1-2", ARN, b"{}", f"{ARN}:x")


def shop(url: str, **options: object) -> tuple[App, Webhook]:
    app = App("shop", broker="memory://")
    orders = app.topic("orders", str)
    return app, app.webhook("hook", orders, url=url, **{"handshake": False, **options})  # type: ignore[arg-type]


def ok(request: Request) -> bytes:
    return answer(200)


async def posted(url: str, body: str = "hello", **options: object) -> None:
    app, _ = shop(url, **options)
    clock = VirtualClock(1_578_090_903.6)
    async with app.running(clock=clock):
        await app.topics[0].publish(body, kind="placed")
        await clock.settle()


async def test_T53_T50_an_enveloped_notification_has_the_headers_and_the_body_of_sns() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = ok
        await posted(endpoint.url, public_url="https://shop.example/sns")
    (request,) = endpoint.requests
    said = json.loads(request.body)
    assert request.line == "POST /in?feed=a%20b HTTP/1.1"
    sns = {name: value for name, value in request.headers.items() if name.startswith("x-amz-sns-")}
    assert sns.pop("x-amz-sns-subscription-arn").startswith(f"{ARN}:")
    assert sns == {
        "x-amz-sns-message-type": "Notification",
        "x-amz-sns-message-id": said["MessageId"],
        "x-amz-sns-topic-arn": ARN,
    }
    assert request.headers["content-type"] == "text/plain; charset=UTF-8"
    assert request.headers["user-agent"] == "Amazon Simple Notification Service Agent"
    assert list(said) == [
        "Type", "MessageId", "TopicArn", "Message", "Timestamp", "MessageAttributes",
    ]  # fmt: skip
    assert (said["Message"], said["Timestamp"]) == ('"hello"', "2020-01-03T22:35:03.600Z")


async def test_T53_raw_delivery_is_the_text_alone_and_says_so() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = ok
        await posted(endpoint.url, raw=True)
    (request,) = endpoint.requests
    assert request.body == b'"hello"'
    assert request.headers["x-amz-sns-rawdelivery"] == "true"
    assert "kind" not in str(request.headers), "attributes are dropped"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "taken"), (204, "taken"), (299, "taken"),
        (301, "refused"), (302, "refused"), (400, "refused"), (403, "refused"), (404, "refused"), (410, "refused"),
        (429, "later"), (500, "later"), (503, "later"), (599, "later"), (101, "later"), (600, "later"),
    ],
)  # fmt: skip
def test_T59_which_answers_take_a_message_refuse_it_or_ask_for_another_attempt(status: int, expected: str) -> None:
    verdict = verdict_on(status, "https://example.org")
    told = "taken" if verdict.delivered else "refused" if verdict.permanent else "later"
    assert told == expected


@pytest.mark.parametrize("kind", ["timeout", "reset", "connect", "unresolved", "refused"])
async def test_T59_no_answer_asks_for_another_attempt(kind: Kind) -> None:
    poster = HttpPoster("https://example.org/in", Endpoint(), egress=Scripted(kind))
    verdict = await poster.post(NOTICE)
    assert (verdict.delivered, verdict.permanent) == (False, False)


async def test_T59_what_an_endpoint_says_is_in_no_reason() -> None:
    poster = HttpPoster("https://example.org/canary", Endpoint(), egress=Scripted(Answer(500, {}, b"canary")))
    assert await poster.post(NOTICE) == Verdict(False, reason="https://example.org: answered 500")


def reset(request: Request) -> bytes:
    raise Reset


def hang(request: Request) -> bytes:
    raise Hang


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_T59_an_answer_counts_by_its_status_however_much_it_says(status: int) -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(status, b"x" * (65 << 10))
        poster = HttpPoster(endpoint.url, Endpoint())
        verdict = await poster.post(NOTICE)
        await poster.close()
    assert (verdict.delivered, verdict.permanent) == (status == 200, status == 404)


@pytest.mark.parametrize("behaviour", [reset, hang])
async def test_T59_a_connection_that_breaks_or_hangs_is_no_delivery(behaviour: Behaviour) -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = behaviour
        poster = HttpPoster(endpoint.url, Endpoint(), timeout=0.2)
        verdict = await poster.post(NOTICE)
        await poster.close()
    assert (verdict.delivered, verdict.permanent) == (False, False)


async def test_T59_a_port_nobody_listens_on_is_no_delivery() -> None:
    poster = HttpPoster(f"http://localhost:{closed_port()}/", Endpoint())
    assert not (await poster.post(NOTICE)).permanent
    await poster.close()


@pytest.mark.parametrize("url", ["http://example.org/in", "https://user:word@example.org/", "https://example.org:22/"])
async def test_an_endpoint_that_no_request_may_go_to_is_refused_before_the_app_opens(url: str) -> None:
    app, _ = shop(url)
    with pytest.raises(ConfigurationError, match=r"webhook hook \(test_webhook_requests\.py:\d+\): "):
        async with app.running():
            raise AssertionError("it opened")


# Signatures


@pytest.mark.parametrize("version", [1, 2])
async def test_T57_a_receiver_verifies_what_was_signed_and_sees_every_change(tmp_path: Path, version: int) -> None:
    signing = pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    key, certificate = made(tmp_path, signing)
    where = Signing(f"file:{key}", "https://shop.example/c.pem", version=version)  # type: ignore[arg-type]
    async with http_endpoint() as endpoint:
        endpoint.behaviour = ok
        await posted(endpoint.url, signing=where)
    said = json.loads(endpoint.requests[0].body)
    assert (said["SignatureVersion"], said["SigningCertURL"]) == (str(version), "https://shop.example/c.pem")
    names = list(said)
    assert names[names.index("Timestamp") :] == [
        "Timestamp", "SignatureVersion", "Signature", "SigningCertURL", "MessageAttributes",
    ]  # fmt: skip
    assert signing.verify(said, certificate)
    for changed in ("Message", "MessageId", "Timestamp", "TopicArn", "SignatureVersion"):
        assert not signing.verify({**said, changed: "2" if said[changed] != "2" else "1"}, certificate), changed
    assert signing.verify({**said, "MessageAttributes": {}}, certificate), "attributes are not signed"
    assert not signing.verify({**said, "Subject": "new"}, certificate)
    assert not signing.verify(said, signing.make_certificate("other", NOW)[1])
    broken: list[object] = [[], None, "x", {}, {"Type": []}, {**said, "Signature": 1}, {**said, "Message": "\ud800"}]
    for malformed in broken:
        assert not signing.verify(malformed, certificate), "whoever can post may post anything"


def test_T57_the_keys_are_signed_in_the_order_of_bytes_each_with_its_value() -> None:
    signing = pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    document = {
        "Type": "Notification", "MessageId": "1", "TopicArn": "t", "Message": "a\nb", "Timestamp": "now",
        "Subject": "s",
    }  # fmt: skip
    expected = b"Message\na\nb\nMessageId\n1\nSubject\ns\nTimestamp\nnow\nTopicArn\nt\nType\nNotification\n"
    assert signing.string_to_sign(document) == expected
    confirmation = {**document, "Type": "SubscriptionConfirmation", "Token": "k", "SubscribeURL": "u"}
    assert signing.string_to_sign(confirmation) == (
        b"Message\na\nb\nMessageId\n1\nSubscribeURL\nu\nTimestamp\nnow\nToken\nk\nTopicArn\nt\n"
        b"Type\nSubscriptionConfirmation\n"
    )


async def test_T65_a_dead_letter_holds_the_signed_envelope_as_it_was_posted(tmp_path: Path) -> None:
    signing = pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    key, certificate = made(tmp_path, signing)
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(410)
        app, _ = shop(endpoint.url, signing=Signing(f"file:{key}", "https://shop.example/c.pem"))
        clock = VirtualClock(1_578_090_903.6)
        async with app.running(clock=clock) as runtime:
            await app.topics[0].publish("a", kind="placed")
            await clock.settle()
            (letter,) = await runtime.store.receive("hook-dlq", Want())
    assert letter.body == endpoint.requests[0].body
    assert signing.verify(json.loads(letter.body), certificate)


async def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    signing = pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    key, _ = made(tmp_path, signing)
    key.chmod(0o644)
    app, _ = shop("https://example.org/in", signing=Signing(f"file:{key}", "https://shop.example/c.pem"))
    with pytest.raises(ConfigurationError, match="others can read it"):
        async with app.running():
            raise AssertionError("it opened")


# The handshake


async def test_T11_T19_an_endpoint_that_asks_the_subscribe_url_is_confirmed() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = ok
        app, hook = shop(endpoint.url, handshake=True, public_url="https://shop.example/sns")
        clock = VirtualClock(0.0)
        async with app.running(clock=clock):
            await app.topics[0].publish("early")
            await clock.settle()
            (request,) = endpoint.requests
            assert request.headers["x-amz-sns-message-type"] == "SubscriptionConfirmation"
            assert "x-amz-sns-subscription-arn" not in request.headers
            url = urlsplit(json.loads(request.body)["SubscribeURL"])
            assert await asked(app, url.query + "0") == (403, b"<Error>Invalid token</Error>")
            status, text = await asked(app, url.query)
            assert status == 200
            assert f"<SubscriptionArn>{(await hook.subscriptions())[0].arn}<".encode() in text
            assert await asked(app, url.query) == (status, text), "a token may be used again"
            await app.topics[0].publish("late")
            await clock.settle()
    assert [json.loads(request.body).get("Message") for request in endpoint.requests[1:]] == ['"late"']


async def test_T54_T57_an_endpoint_is_told_over_http_that_it_is_unsubscribed_signed_like_all_else(
    tmp_path: Path,
) -> None:
    signing = pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    key, certificate = made(tmp_path, signing)
    async with http_endpoint() as endpoint:
        endpoint.behaviour = ok
        signed = Signing(f"file:{key}", "https://shop.example/c.pem")
        app, hook = shop(endpoint.url, signing=signed, public_url="https://shop.example/sns")
        clock = VirtualClock(1_578_090_903.6)
        async with app.running(clock=clock):
            await hook.unsubscribe()
            await clock.settle()
            (request,) = endpoint.requests
            said = json.loads(request.body)
            (facts,) = await hook.subscriptions()
            assert request.headers["x-amz-sns-message-type"] == "UnsubscribeConfirmation"
            assert request.headers["x-amz-sns-subscription-arn"] == facts.arn
            assert signing.verify(said, certificate)
            assert not signing.verify({**said, "Token": "0"}, certificate)
            assert (await asked(app, urlsplit(said["SubscribeURL"]).query))[0] == 200
            assert [each.state for each in await hook.subscriptions()] == ["confirmed"]


async def test_T19_a_request_that_confirms_nothing_is_told_so() -> None:
    app, _ = shop("https://example.org/in", handshake=True)
    assert (await asked(app, "Action=Unsubscribe"))[0] == 400
    assert (await asked(app, "Action=ConfirmSubscription&Token=x&TopicArn=other"))[0] == 403
    assert (await asked(app, f"Action=ConfirmSubscription&Token=x&TopicArn={ARN}"))[0] == 503


async def asked(app: App, query: str) -> tuple[int, bytes]:
    sent: list[Scope] = []

    async def send(message: Scope) -> None:
        sent.append(message)

    async def receive() -> Scope:
        raise AssertionError("a GET has no body")

    await subscriptions(app)({"type": "http", "method": "GET", "query_string": query.encode()}, receive, send)
    start, body = sent
    return start["status"], body["body"]


def made(folder: Path, signing: object) -> tuple[Path, bytes]:
    """A key in a file, and its certificate."""
    private, certificate = signing.make_certificate("shop", NOW)  # type: ignore[attr-defined]  # imported when there
    key = folder / "key.pem"
    key.touch(0o600)
    key.write_bytes(private)
    return key, certificate
