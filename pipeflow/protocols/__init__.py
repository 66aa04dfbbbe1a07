"""The contracts between the floors: what a broker, a record log, an admin and a sink promise.

Five verbs, each over a batch. The order of results is the order of the input; a refused item is a value, not an
exception. Every verb but `receive` answers after the group that was open when it ran, also when it changed nothing.
"""

from pipeflow.clock import Clock, Signal
from pipeflow.letters import Discard, Discarded, Redrive, Redriven, Rewrite
from pipeflow.looking import Found, Peeked, Search, State
from pipeflow.protocols.admins import Admin, Store
from pipeflow.protocols.brokers import BEHIND, Broker, Features
from pipeflow.protocols.handling import Handle, Middleware
from pipeflow.protocols.logs import Catalogue, Compact, Lane, RecordLog, Waiting
from pipeflow.protocols.sinks import Object, PagingSink, ReadableSink, RecordBatch, RecordSink, Sink, SweepingSink
from pipeflow.stats import Parked, QueueStats, StoreStats, StreamStats, TopicStats

__all__ = [
    "Admin",
    "BEHIND",
    "Broker",
    "Catalogue",
    "Clock",
    "Compact",
    "Discard",
    "Discarded",
    "Features",
    "Found",
    "Handle",
    "Lane",
    "Middleware",
    "Object",
    "PagingSink",
    "Parked",
    "Peeked",
    "QueueStats",
    "ReadableSink",
    "RecordBatch",
    "RecordLog",
    "RecordSink",
    "Redrive",
    "Redriven",
    "Rewrite",
    "Search",
    "Signal",
    "Sink",
    "State",
    "Store",
    "StoreStats",
    "StreamStats",
    "SweepingSink",
    "TopicStats",
    "Waiting",
]
