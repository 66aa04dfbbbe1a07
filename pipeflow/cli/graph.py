"""`pipeflow graph`: the topology of an app as Mermaid, SVG or JSON, from what it declares; nothing is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click
import msgspec
from msgspec import Struct

from pipeflow.app import App
from pipeflow.cli import units
from pipeflow.cli.loading import load_app
from pipeflow.specs import FilterPolicy, QueueSpec, StreamSpec
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
        (
            Edge(f"topic:{taken.topic}", f"{taken.kind}:{taken.target}", policy_text(taken.filter))
            for taken in topology.subscriptions
        ),
        _handlers(app),
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
        place = spec.sink.partition("?")[0]
        yield Node(f"sink:{spec.name}", "sink", place, f"{spec.format}, {spec.compression}")
        yield Edge(f"stream:{spec.name}", f"sink:{spec.name}", "by partition" if spec.partitioned else "")


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


SHAPES: dict[Kind, tuple[str, str]] = {
    "source": ("[/", "/]"),
    "topic": ("([", "])"),
    "queue": ("[(", ")]"),
    "handler": ("[[", "]]"),
    "stream": ("[/", "\\]"),
    "sink": ("[\\", "/]"),
    "dead letters": ("[(", ")]"),
}


def mermaid(graph: Graph) -> str:
    """A Mermaid flowchart, from left to right."""
    ids = {node.key: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        left, right = SHAPES[node.kind]
        text = f"{node.name}<br/><small>{node.detail}</small>" if node.detail else node.name
        style = node.kind.split()[0]
        lines.append(f'    {ids[node.key]}{left}"{_quoted(text)}"{right}:::{style}')
    for edge in graph.edges:
        arrow = "-.->" if edge.aside else "-->"
        label = f'|"{_quoted(edge.label)}"|' if edge.label else ""
        lines.append(f"    {ids[edge.source]} {arrow}{label} {ids[edge.target]}")
    lines += [
        "    classDef topic fill:#dbeafe,stroke:#2563eb,color:#1e3a5f",
        "    classDef queue fill:#fef3c7,stroke:#d97706,color:#5f3a06",
        "    classDef handler fill:#dcfce7,stroke:#16a34a,color:#14532d",
        "    classDef stream fill:#ede9fe,stroke:#7c3aed,color:#3b1d78",
        "    classDef dead fill:#fee2e2,stroke:#dc2626,color:#7f1d1d",
        "    classDef source fill:#f1f5f9,stroke:#475569,color:#1e293b",
        "    classDef sink fill:#f1f5f9,stroke:#475569,color:#1e293b",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;")


@click.command()
@click.argument("target", required=False, metavar="[MODULE:APP]")
@click.option(
    "--format", "form", type=click.Choice(["mermaid", "svg", "json"]), help="Default: by --out, else mermaid."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: stdout.")
@click.option("--factory", is_flag=True, help="Call the attribute to make the app.")
def graph(target: str | None, form: str | None, out: Path | None, factory: bool) -> None:
    """Draw an app: topics, queues, handlers, streams and dead letters, as it declares them."""
    drawn = graph_of(load_app(target, factory=factory))
    if form is None:
        form = {".svg": "svg", ".json": "json"}.get(out.suffix if out is not None else "", "mermaid")
    match form:
        case "svg":
            from pipeflow.cli.drawing import svg

            text = svg(drawn)
        case "json":
            text = msgspec.json.format(msgspec.json.encode(drawn)).decode()
        case _:
            text = mermaid(drawn)
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n")
