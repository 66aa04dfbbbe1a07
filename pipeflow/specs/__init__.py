"""What the nouns are: frozen options, checked when they are made, with the remedy in every message.

Durations are seconds, sizes bytes. The defaults are the documented ones; AWS's own limits live at the AWS door.
"""

from pipeflow.specs.endpoints import Endpoint
from pipeflow.specs.queues import DAY, LARGEST_BODY, YEAR, Backoff, QueueSpec
from pipeflow.specs.streams import (
    COLUMNAR,
    COLUMNAR_BYTES,
    LEVELS,
    MERGED,
    TABULAR,
    Buffering,
    Compression,
    Decompress,
    Format,
    KeyQuery,
    StreamSpec,
    check_backups,
)
from pipeflow.specs.topics import FilterPolicy, FilterScope, Subscription, TopicSpec, archive_of, archive_queue
from pipeflow.specs.topology import INLINE_BYTES, ClaimSpec, Topology

__all__ = [
    "Backoff",
    "Buffering",
    "COLUMNAR",
    "COLUMNAR_BYTES",
    "ClaimSpec",
    "Compression",
    "DAY",
    "Decompress",
    "Endpoint",
    "FilterPolicy",
    "FilterScope",
    "Format",
    "INLINE_BYTES",
    "KeyQuery",
    "LARGEST_BODY",
    "LEVELS",
    "MERGED",
    "QueueSpec",
    "StreamSpec",
    "Subscription",
    "TABULAR",
    "TopicSpec",
    "Topology",
    "YEAR",
    "archive_of",
    "archive_queue",
    "check_backups",
]
