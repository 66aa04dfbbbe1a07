"""What a topic is, what subscribes to it, and the queue that its archive lies in."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.names import topic_name
from pipeflow.specs.queues import DAY, LARGEST_BODY, QueueSpec
from pipeflow.specs.tags import check_tags

FilterScope: TypeAlias = Literal["attributes", "body"]


class TopicSpec(Struct, frozen=True):
    """One topic. `content_dedup` takes the SHA-256 of the body where a FIFO publish names no dedup id."""

    name: str
    fifo: bool = False
    content_dedup: bool = False
    archive: float = 0.0
    """Seconds for which what was published is kept, to be replayed; 0: not at all (SNS: T74)."""
    tags: dict[str, str] = {}
    """Words for operators; they change nothing (SNS: T77)."""
    dedup_scope: Literal["topic", "group"] = "topic"
    """Whether an id is a duplicate in any group, or in its own only (SNS: T70)."""

    def __post_init__(self) -> None:
        topic_name(self.name)
        if not 0 <= self.archive <= 365 * DAY:
            raise ConfigurationError(f"{self.name}: archive is {self.archive / DAY:g} days; use more than 0, up to 365")
        check_tags(self.name, self.tags)


class FilterPolicy(Struct, frozen=True):
    """An SNS filter policy as JSON text, and what it looks at."""

    policy: str
    scope: FilterScope = "attributes"


class Subscription(Struct, frozen=True):
    """One target of a topic. `raw` delivers the body as published, else an SNS envelope made at receive (SNS: T50)."""

    topic: str
    """Its name; or a pattern with `*`, for every topic that it names, whenever that was or will be declared."""
    kind: Literal["queue", "stream"]
    target: str
    filter: FilterPolicy | None = None
    raw: bool = True
    endpoint: str = ""
    """Webhooks only: the URL that what lies in the target queue is posted to."""
    handshake: bool = False
    """It gets nothing before its endpoint has confirmed (SNS: T11)."""
    named: bool = False
    """Its messages say which topic they came by: the target has several."""


def archive_of(topic: str) -> str:
    """The queue that a topic's archive lies in."""
    return f"{topic}-archive"


def archive_queue(topic: TopicSpec) -> QueueSpec:
    """The archive of a topic, as a queue."""
    return QueueSpec(
        archive_of(topic.name),
        fifo=topic.fifo,
        max_receives=None,
        retention=topic.archive,
        max_body=LARGEST_BODY,
        dedup_scope="group" if topic.dedup_scope == "group" else "queue",
        archives=True,
    )
