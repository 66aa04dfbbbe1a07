"""Event-driven pipelines for Python: topics, queues and streams with the semantics of SNS, SQS and Firehose."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pipeflow.app import App
from pipeflow.context import Context
from pipeflow.errors import (
    CodecError,
    ConfigurationError,
    Failed,
    Indeterminate,
    Overloaded,
    PipeflowError,
    RefusedError,
    Reject,
    Retry,
    Unavailable,
)
from pipeflow.messages import At, Batch, Delivery, Message, Refused, Sent
from pipeflow.protocols import Handle, Middleware
from pipeflow.queue import Queue
from pipeflow.router import Router
from pipeflow.specs import Backoff, Endpoint
from pipeflow.topic import Selection, Topic, TopicPattern
from pipeflow.version import __version__

if TYPE_CHECKING:
    from pipeflow.filters import (
        anything_but,
        cidr,
        equals_ignore_case,
        exists,
        num,
        prefix,
        suffix,
        where,
        where_body,
        wildcard,
    )
    from pipeflow.outbox import Outbox
    from pipeflow.stream import Stream
    from pipeflow.webhook import Webhook
    from pipeflow.webhooks import DeliveryPolicy, Signing

__all__ = [
    "App",
    "Router",
    "Topic",
    "TopicPattern",
    "Selection",
    "Queue",
    "Stream",
    "Webhook",
    "Outbox",
    "DeliveryPolicy",
    "Signing",
    "Context",
    "Message",
    "Batch",
    "At",
    "Delivery",
    "Handle",
    "Middleware",
    "Backoff",
    "Endpoint",
    "Retry",
    "Reject",
    "Failed",
    "Sent",
    "Refused",
    "num",
    "prefix",
    "suffix",
    "anything_but",
    "exists",
    "cidr",
    "wildcard",
    "equals_ignore_case",
    "where",
    "where_body",
    "PipeflowError",
    "ConfigurationError",
    "CodecError",
    "RefusedError",
    "Unavailable",
    "Indeterminate",
    "Overloaded",
    "__version__",
]

_FILTERS = (
    "anything_but",
    "cidr",
    "equals_ignore_case",
    "exists",
    "num",
    "prefix",
    "suffix",
    "where",
    "where_body",
    "wildcard",
)
_LATER = {
    "Stream": "pipeflow.stream",
    "Webhook": "pipeflow.webhook",
    "Outbox": "pipeflow.outbox",
    "DeliveryPolicy": "pipeflow.webhooks",
    "Signing": "pipeflow.webhooks",
    **dict.fromkeys(_FILTERS, "pipeflow.filters"),
}
"""Loaded when they are asked for: a program without streams or filters starts faster."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'pipeflow' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value
