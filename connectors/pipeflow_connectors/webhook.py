"""Notifications to an HTTP endpoint, as SNS posts them (SNS: T53, T59). Every request leaves by the one egress.

2xx takes a message. Other answers below 500, but 429, are the endpoint's last word: a redirect is one, as none is
followed. Everything else may be otherwise next time: 429, 5xx, 1xx, no answer. What an answer says besides its status
means nothing: one that is too large is not read to its end, and counts like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pipeflow.errors import ConfigurationError
from pipeflow.specs import Endpoint
from pipeflow.webhooks import Notice, Signing, Verdict
from pipeflow_connectors.addresses import Policy, names_loopback
from pipeflow_connectors.egress import Answer, Egress, EgressError, target_of

MAX_ANSWER = 64 << 10
AGENT = "Amazon Simple Notification Service Agent"


class Asking(Protocol):
    """What this needs of an egress."""

    async def post(
        self, url: str, *, headers: dict[str, str], content: bytes, limit: int, timeout: float
    ) -> Answer: ...

    async def close(self) -> None: ...


def open_webhook(url: str, *, endpoint: Endpoint, timeout: float, signing: Signing | None = None) -> HttpPoster:
    """The endpoint at this URL; one that plainly is this machine may be asked without TLS."""
    return HttpPoster(url, endpoint, timeout, signing)


class HttpPoster:
    """A `Poster`. ConfigurationError for a URL that no request may go to, and for a key that cannot be used."""

    def __init__(
        self,
        url: str,
        endpoint: Endpoint,
        timeout: float = 15.0,
        signing: Signing | None = None,
        egress: Asking | None = None,
    ) -> None:
        policy = Policy(_loopback(url), endpoint.networks, endpoint.ports)
        target = target_of(url, policy)
        if target.scheme == "http" and not policy.loopback and not policy.networks:
            raise ConfigurationError(f"{target.origin}: http:// is for this machine only; write https://")
        self._url = url
        self._origin = target.origin
        self._timeout = timeout
        self._egress = egress or Egress(policy)
        self._signer: Any = None
        if signing is not None:
            from pipeflow_connectors.signing import Signer  # for webhooks that sign

            self._signer = Signer(signing.key, signing.certificate_url, signing.version)

    def prepare(self) -> None:
        """Everything was checked when it was made."""

    def sign(self, document: Mapping[str, object]) -> dict[str, str]:
        signed: dict[str, str] = {} if self._signer is None else self._signer.sign(document)
        return signed

    async def post(self, notice: Notice) -> Verdict:
        """What came of it. Reasons name the origin and a status, never the path, the query or what was answered."""
        try:
            answer = await self._egress.post(
                self._url,
                headers=headers_of(notice),
                content=notice.body,
                limit=MAX_ANSWER,
                timeout=self._timeout,
            )
        except EgressError as error:
            if error.status is not None:
                return verdict_on(error.status, self._origin)
            return Verdict(False, reason=str(error))
        return verdict_on(answer.status, self._origin)

    async def close(self) -> None:
        await self._egress.close()


def headers_of(notice: Notice) -> dict[str, str]:
    """The headers of SNS; those of HTTP itself are the egress's."""
    headers = {
        "Content-Type": notice.content_type,
        "User-Agent": AGENT,
        "x-amz-sns-message-type": notice.kind,
        "x-amz-sns-message-id": notice.id,
        "x-amz-sns-topic-arn": notice.topic,
    }
    if notice.subscription is not None:
        headers["x-amz-sns-subscription-arn"] = notice.subscription
    if notice.raw:
        headers["x-amz-sns-rawdelivery"] = "true"
    return headers


def verdict_on(status: int, origin: str) -> Verdict:
    """Whether a status takes the message, refuses it for good, or asks for another attempt (SNS: T59)."""
    if 200 <= status < 300:
        return Verdict(True)
    return Verdict(False, permanent=300 <= status < 500 and status != 429, reason=f"{origin}: answered {status}")


def _loopback(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        return names_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
