"""Event-driven pipelines for Python: topics, queues and streams with the semantics of SNS, SQS and Firehose."""

from pipeflow.app import App
from pipeflow.context import Context
from pipeflow.errors import (
    CodecError,
    ConfigurationError,
    Indeterminate,
    Overloaded,
    PipeflowError,
    RefusedError,
    Reject,
    Retry,
    Unavailable,
)
from pipeflow.filters import anything_but, cidr, equals_ignore_case, exists, num, prefix, suffix, where, wildcard
from pipeflow.messages import At, Batch, Delivery, Message, Refused, Sent
from pipeflow.protocols import Handle, Middleware
from pipeflow.queue import Queue
from pipeflow.router import Router
from pipeflow.specs import Backoff
from pipeflow.stream import Stream
from pipeflow.topic import Selection, Topic
from pipeflow.version import __version__

__all__ = [
    "App",
    "Router",
    "Topic",
    "Selection",
    "Queue",
    "Stream",
    "Context",
    "Message",
    "Batch",
    "At",
    "Delivery",
    "Handle",
    "Middleware",
    "Backoff",
    "Retry",
    "Reject",
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
    "PipeflowError",
    "ConfigurationError",
    "CodecError",
    "RefusedError",
    "Unavailable",
    "Indeterminate",
    "Overloaded",
    "__version__",
]
