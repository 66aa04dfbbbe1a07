"""`pipeflow graph`: the topology of an app as Mermaid, SVG or JSON, from what it declares; nothing is opened."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from pipeflow.cli.drawing import svg
from pipeflow.cli.loading import load_app
from pipeflow.cli.nodes import Graph, Kind, graph_of

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
            text = svg(drawn)
        case "json":
            text = msgspec.json.format(msgspec.json.encode(drawn)).decode()
        case _:
            text = mermaid(drawn)
    if out is None:
        click.echo(text)
    else:
        out.write_text(text + "\n")
