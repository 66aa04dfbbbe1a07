"""What a webhook is: where a topic's messages are posted to, how often that is tried, and what a request looks like.

A webhook is a subscription over HTTP (SNS: T53). Its messages wait in a durable queue of its own; what is here is plain
data and pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from pipeflow.errors import ConfigurationError

BackoffFunction: TypeAlias = Literal["linear", "arithmetic", "geometric", "exponential"]
Protocols: TypeAlias = Literal["queue", "webhook", "stream"]
"""Ways a topic delivers."""
Kind: TypeAlias = Literal["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"]

LONGEST: Final = 3600.0
"""Seconds that one delay, and all delays of a message together, may take (SNS: T61)."""
TOKEN_LIFE: Final = 3 * 86_400.0
"""Seconds in which a subscription is to be confirmed (SNS: T11)."""

TOPIC: Final = "pipeflow-topic"
"""The header that names the topic a message came by: of webhooks, and of queues that have several."""
TOKEN: Final = "pipeflow-confirmation-token"
"""The header of a message that asks its endpoint to confirm: the token to confirm with."""
LEFT: Final = "pipeflow-unsubscribed"
"""The header of such a message that says that its endpoint gets nothing from now on, unless it confirms (SNS: T54)."""
SIGNED: Final = "pipeflow-signed"
"""The header of a dead letter that keeps, as JSON, what its envelope was signed with (SNS: T65)."""
TEXTS: Final = "pipeflow-texts"
"""The header in which a publish carries one text per protocol: JSON, each body in latin-1 (SNS: T25)."""
REPLAYED: Final = "pipeflow-replayed"
"""The header of what a replay of an archive delivered (SNS: T75)."""


class DeliveryPolicy(Struct, frozen=True):
    """How often and how late an endpoint is tried again (SNS: T61); what is left off is the topic's, else SNS's.

    The retries come in four phases: `no_delay_retries` at once, `min_delay_retries` after `min_delay` each, then those
    that are left, from `min_delay` to `max_delay` by `backoff`, at last `max_delay_retries` after `max_delay` each.
    """

    retries: int | UnsetType = UNSET
    """All of them, 0 to 100 (3)."""
    min_delay: float | UnsetType = UNSET
    """Seconds, 1 to `max_delay` (20)."""
    max_delay: float | UnsetType = UNSET
    """Seconds, up to 3600 (20)."""
    no_delay_retries: int | UnsetType = UNSET
    min_delay_retries: int | UnsetType = UNSET
    max_delay_retries: int | UnsetType = UNSET
    backoff: BackoffFunction | UnsetType = UNSET
    """linear, arithmetic, geometric or exponential."""
    max_per_second: float | UnsetType | None = UNSET
    """Requests a second, at least 1; None: no limit."""
    content_type: str | UnsetType = UNSET
    """The Content-Type of requests."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is UNSET or name == "backoff" or (name == "max_per_second" and value is None):
                continue
            if name == "content_type":
                fits, use = isinstance(value, str), "text"
            elif name.endswith("retries"):
                fits, use = type(value) is int and value >= 0, "a whole number, 0 or more"
            else:
                fits, use = type(value) in (int, float) and value >= 0, "a number, 0 or more"
            if not fits:
                raise ConfigurationError(f"DeliveryPolicy: {name} is {value!r}; use {use}")


class Retries(Struct, frozen=True):
    """A policy with nothing left off: what is in effect."""

    retries: int = 3
    min_delay: float = 20.0
    max_delay: float = 20.0
    no_delay_retries: int = 0
    min_delay_retries: int = 0
    max_delay_retries: int = 0
    backoff: BackoffFunction = "linear"
    max_per_second: float | None = None
    content_type: str = "text/plain; charset=UTF-8"

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 100:
            raise ConfigurationError(f"DeliveryPolicy: retries is {self.retries}; use 0 to 100")
        if not 1 <= self.min_delay <= self.max_delay <= LONGEST:
            raise ConfigurationError(
                f"DeliveryPolicy: min_delay is {self.min_delay} and max_delay {self.max_delay}; use 1 s up to 3600 s, "
                "the least first"
            )
        if self.backoff not in ("linear", "arithmetic", "geometric", "exponential"):
            raise ConfigurationError(
                f"DeliveryPolicy: backoff is {self.backoff!r}; use linear, arithmetic, geometric or exponential"
            )
        if self._between < 0:
            raise ConfigurationError(
                f"DeliveryPolicy: {self.no_delay_retries} + {self.min_delay_retries} + {self.max_delay_retries} "
                f"retries in phases are more than retries={self.retries}; raise it"
            )
        if self.max_per_second is not None and self.max_per_second < 1:
            raise ConfigurationError(f"DeliveryPolicy: max_per_second is {self.max_per_second}; use at least 1")
        total = sum(self.delay(retry, 0.0) for retry in range(1, self.retries + 1))
        if total > LONGEST:
            raise ConfigurationError(
                f"DeliveryPolicy: its delays come to {total:.0f} s, at most {LONGEST:.0f}; use fewer or shorter ones"
            )
        if not self.content_type or not self.content_type.isascii() or not self.content_type.isprintable():
            raise ConfigurationError(f"DeliveryPolicy: content_type {self.content_type!r} is no header")

    @property
    def _between(self) -> int:
        return self.retries - self.no_delay_retries - self.min_delay_retries - self.max_delay_retries

    def delay(self, retry: int, roll: float) -> float:
        """Seconds before retry number `retry`, from 1; `roll` in [0, 1) takes up to a tenth off (SNS: T61, T63)."""
        return self._planned(retry) * (1.0 - 0.1 * roll)

    def _planned(self, retry: int) -> float:
        if retry <= self.no_delay_retries:
            return 0.0
        retry -= self.no_delay_retries
        if retry <= self.min_delay_retries:
            return self.min_delay
        retry -= self.min_delay_retries
        if retry > self._between:
            return self.max_delay
        # From 0 at the first of these retries to 1 at the last.
        way = (retry - 1) / (self._between - 1) if self._between > 1 else 1.0
        least, most = self.min_delay, self.max_delay
        match self.backoff:
            case "linear":
                return least + (most - least) * way
            case "arithmetic":
                return least + (most - least) * way * (way + 1) / 2
            case "geometric":
                return least * float((most / least) ** way)
            case _:
                return least + (most - least) * float((2.0 ** (way * self._between) - 1) / (2.0**self._between - 1))


def effective(topic: DeliveryPolicy | None, own: DeliveryPolicy | None, *, override: bool = True) -> Retries:
    """The policy in effect: what a webhook says, over what its topic says, over SNS's own (SNS: T7, T62).

    Without `override` the topic's holds and the webhook's is passed over.
    """
    merged: dict[str, object] = {}
    for policy in (topic, own if override else None):
        if policy is not None:
            merged |= {name: value for name, value in asdict(policy).items() if value is not UNSET}
    return Retries(**merged)  # type: ignore[arg-type]  # fields of the same names and types


class Signing(Struct, frozen=True):
    """How notifications are signed (SNS: T57). `pipeflow topics certificate` makes a key with its certificate."""

    key: str
    """Where the RSA key is: "file:PATH" of a PEM file with mode 0600."""
    certificate_url: str
    """Where receivers get the certificate: it stands in every message."""
    version: Literal[1, 2] = 2
    """1: SHA-1, as SNS does by default. 2: SHA-256."""

    def __post_init__(self) -> None:
        if not self.key.startswith("file:") or self.key == "file:":
            # What was given may be the key itself, so it is not repeated here.
            raise ConfigurationError("Signing: key is where the key is, not the key: write 'file:PATH'")
        if self.version not in (1, 2):
            raise ConfigurationError(f"Signing: version is {self.version!r}; use 1 (SHA-1) or 2 (SHA-256)")


class Notice(Struct, frozen=True):
    """One request to an endpoint (SNS: T53)."""

    kind: Kind
    id: str
    """The same at every attempt: what a receiver tells repeats by (P15)."""
    topic: str
    """The topic's ARN."""
    body: bytes
    subscription: str | None = None
    """The subscription's ARN; a request to confirm has none."""
    raw: bool = False
    content_type: str = "text/plain; charset=UTF-8"


class Verdict(Struct, frozen=True):
    """What came of one request."""

    delivered: bool
    permanent: bool = False
    """A client error: trying again would change nothing (SNS: T59)."""
    reason: str = ""


class Poster(Protocol):
    """Sends requests to one endpoint."""

    def prepare(self) -> None:
        """ConfigurationError when what it needs is not there."""

    def sign(self, document: Mapping[str, object]) -> dict[str, str]:
        """What to add to a document: SignatureVersion, Signature and SigningCertURL; nothing when it does not sign."""
        ...

    async def post(self, notice: Notice) -> Verdict: ...

    async def close(self) -> None: ...


class SubscriptionFacts(Struct, frozen=True, array_like=True):
    """One subscription of a webhook, as the store knows it."""

    topic: str
    webhook: str
    arn: str
    endpoint: str
    state: Literal["confirmed", "pending", "expired", "unsubscribed"]
    """expired: its token was not used in time; the next start of the app asks anew. unsubscribed: nobody asks anew."""
    confirmed_at: float | None = None
