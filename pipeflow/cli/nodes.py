"""An app as boxes and arrows: every noun it declares, and where messages go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from pipeflow.app import App
from pipeflow.cli import units
from pipeflow.names import is_meant
from pipeflow.specs import FilterPolicy, QueueSpec, StreamSpec, Topology
from pipeflow.topic import Topic

Kind = Literal["source", "topic", "queue", "handler", "stream", "sink", "dead letters"]


class Node(Struct, frozen=True):
    """One box: what it is, its name, and a line of detail."""

    key: str
    kind: Kind
    name: str
    detail: str = ""


class Edge(Struct, frozen=True):
    """Where messages go. `aside`: only those that failed."""

    source: str
    target: str
    label: str = ""
    aside: bool = False


class Graph(Struct, frozen=True):
    """Everything an app declares, and how it hangs together."""

    app: str
    nodes: list[Node]
    edges: list[Edge]


def graph_of(app: App) -> Graph:
    """The graph of an app; ConfigurationError when what it declares cannot be."""
    topology = app.topology()
    graph = Graph(app.name, [], [])
    for part in (
        _sources(app),
        (Node(f"topic:{topic.name}", "topic", topic.name, "fifo" if topic.fifo else "") for topic in topology.topics),
        _queues(topology.queues),
        _streams(topology.streams),
        _subscriptions(topology),
        _handlers(app),
        _webhooks(app),
    ):
        for item in part:
            if isinstance(item, Node):
                graph.nodes.append(item)
            else:
                graph.edges.append(item)
    return graph


def _sources(app: App) -> Iterator[Node | Edge]:
    for router in app.walk():
        for source in router.sources:
            target = source.target
            kind = "topic" if isinstance(target, Topic) else "stream"
            yield Node(f"source:{source.name}", "source", source.name)
            yield Edge(f"source:{source.name}", f"{kind}:{target.name}")


def _queues(queues: tuple[QueueSpec, ...]) -> Iterator[Node | Edge]:
    dead = {spec.dead_letters for spec in queues}
    for spec in queues:
        detail = ", ".join(["fifo"] * spec.fifo + [f"delay {units.seconds(spec.delay)}"] * bool(spec.delay))
        yield Node(f"queue:{spec.name}", "dead letters" if spec.name in dead else "queue", spec.name, detail)
        if spec.dead_letters is not None:
            tries = "1 receive" if spec.max_receives == 1 else f"{spec.max_receives} receives"
            yield Edge(f"queue:{spec.name}", f"queue:{spec.dead_letters}", f"after {tries}", aside=True)


def _streams(streams: tuple[StreamSpec, ...]) -> Iterator[Node | Edge]:
    for spec in streams:
        detail = f"{units.size(spec.buffer_bytes)} or {units.seconds(spec.buffer_seconds)}"
        yield Node(f"stream:{spec.name}", "stream", spec.name, detail)
        yield Node(f"sink:{spec.name}", "sink", spec.shown_sink, f"{spec.format}, {spec.compression}")
        yield Edge(f"stream:{spec.name}", f"sink:{spec.name}", "by partition" if spec.partitioned else "")
        if spec.backup is not None:
            yield Edge(f"stream:{spec.name}", f"stream:{spec.backup}", "as they came")


def _subscriptions(topology: Topology) -> Iterator[Edge]:
    named = {(taken.topic, taken.kind, taken.target) for taken in topology.subscriptions}
    for taken in topology.subscriptions:
        for topic in topology.topics:
            if topic.name == taken.topic or (
                is_meant(topic.name, taken.topic) and (topic.name, taken.kind, taken.target) not in named
            ):
                yield Edge(f"topic:{topic.name}", f"{taken.kind}:{taken.target}", policy_text(taken.filter))


def _handlers(app: App) -> Iterator[Node | Edge]:
    for router in app.walk():
        for queue in router.queues:
            registered = queue.registration
            if registered is None:
                continue
            name, _, place = registered.function.name.partition(" ")
            key = f"handler:{queue.name}"
            yield Node(key, "handler", name, place.strip("()"))
            yield Edge(f"queue:{queue.name}", key, "in batches" if registered.batching is not None else "")
            if registered.emit is not None:
                yield Edge(key, f"topic:{registered.emit.name}", "emits")


def _webhooks(app: App) -> Iterator[Node | Edge]:
    for router in app.walk():
        for webhook in router.webhooks:
            # The path of such a URL is often a secret.
            scheme, _, rest = webhook.url.partition("://")
            yield Node(f"sink:webhook:{webhook.name}", "sink", f"{scheme}://{rest.split('/')[0]}")
            yield Edge(f"queue:{webhook.name}", f"sink:webhook:{webhook.name}", "posts")


def policy_text(policy: FilterPolicy | None) -> str:
    """A filter policy in few words: `kind: placed`, `dep_delay >= 60`."""
    if policy is None:
        return ""
    fields: dict[str, object] = msgspec.json.decode(policy.policy, type=dict[str, object])
    return ", ".join(_field_text(name, rule) for name, rule in fields.items())


def _field_text(name: str, rule: object) -> str:
    match rule:
        case [{"numeric": [str() as sign, float() | int() as bound]}]:
            return f"{name} {sign} {bound}"
        case [str() | int() | float() as only]:
            return f"{name}: {only}"
        case [{"prefix": str() as start}]:
            return f"{name}: {start}*"
        case [*several] if all(isinstance(each, str) for each in several):
            return f"{name}: {' or '.join(map(str, several))}"
    return f"{name}: {msgspec.json.encode(rule).decode()}"
