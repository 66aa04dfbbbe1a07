"""`pipeflow match`: does a filter policy take this event? With the matcher that topics use."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence

import click
import msgspec

from pipeflow.cli.archives import Scope, looked_through, policy_text
from pipeflow.cli.bodies import Body, bodies
from pipeflow.cli.opening import store_options, store_url
from pipeflow.cli.output import count, fail_empty_option, found, json_option, show_one
from pipeflow.errors import CodecError
from pipeflow.filters import compile_filter
from pipeflow.messages import AttributeValue
from pipeflow.specs import FilterPolicy


def matching(policy: str, scope: Scope, events: Sequence[Body]) -> list[bool]:
    """Whether the policy takes each event; an event is a body, or an object of attributes."""
    takes = compile_filter(FilterPolicy(policy, scope))
    if scope == "body":
        return [takes(event.content, {}) for event in events]
    return [takes(b"", attributes_of(event)) for event in events]


def attributes_of(event: Body) -> Mapping[str, AttributeValue]:
    """Attributes written as {"kind": "placed"}, or as SNS does: {"kind": {"Type": "String", "Value": "placed"}}."""
    try:
        written: dict[str, object] = msgspec.json.decode(event.content, type=dict[str, object])
    except msgspec.ValidationError as error:
        raise CodecError(f'{event.place}: no object of attributes: {error}; write {{"kind": "placed"}}') from None
    return {name: _attribute(name, value, event.place) for name, value in written.items()}


class _Typed(msgspec.Struct, frozen=True):
    Type: str
    Value: str


def _attribute(name: str, value: object, place: str) -> AttributeValue:
    try:
        return _value(msgspec.convert(value, _Typed)) if isinstance(value, dict) else _plain(value)
    except (msgspec.DecodeError, ValueError) as error:
        raise CodecError(
            f'{place}: attribute {name} is none: {error}; write "placed", 7, ["a", 7] or'
            ' {"Type": "String", "Value": "placed"}'
        ) from None


def _value(typed: _Typed) -> AttributeValue:
    """What SNS looks at (SNS: T26, T39): a type may say more behind a dot, and that means nothing."""
    if typed.Type == "String.Array":
        return _plain(msgspec.json.decode(typed.Value, type=list[object]))
    match typed.Type.partition(".")[0]:
        case "String":
            return typed.Value
        case "Number":
            return msgspec.json.decode(typed.Value, type=int | float)
        case "Binary":
            return b64decode(typed.Value, validate=True)
    raise ValueError(f"Type {typed.Type} is not String, String.Array, Number or Binary")


def _plain(value: object) -> AttributeValue:
    converted: AttributeValue = msgspec.convert(value, str | int | float | bool | list[str | int | float | bool | None])
    return converted


@click.command()
@click.option("--policy", required=True, metavar="JSON", help="The filter policy, or @FILE.")
@click.option("--scope", type=click.Choice(["body", "attributes"]), default="body", show_default=True)
@click.argument("event", required=False, metavar="FILE|-")
@click.option("--history", metavar="TOPIC", help="Try it on what this topic's archive kept, instead of an event.")
@click.option("--from", "start", metavar="TIME", help="With --history: from this time, or so long ago.")
@click.option("--until", "end", metavar="TIME", help="With --history: to this time, or so long ago.")
@store_options
@json_option
@fail_empty_option
def match(
    policy: str,
    scope: Scope,
    event: str | None,
    history: str | None,
    start: str | None,
    end: str | None,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Say whether a filter policy takes the event in FILE, or on stdin with -.

    The event is a message's body; with --scope attributes, an object of its attributes. A file with one event a line
    prints the lines that match.
    """
    policy = policy_text(policy)
    if history is not None:
        report = looked_through(store_url(broker, app), history, start, end, FilterPolicy(policy, scope))
        text = f"{history}: {count(report.matched)} of {count(report.examined)} archived messages match"
        show_one(msgspec.structs.asdict(report), "\n".join([text, *report.ids]), as_json=as_json)
        found(report.matched > 0, fail_empty)
        return
    if event is None:
        raise click.UsageError("name a file with events, - for stdin, or --history TOPIC")
    events = list(bodies([event if event == "-" else f"@{event}"], raw=False))
    results = matching(policy, scope, events)
    if as_json:
        click.echo(
            msgspec.json.encode({"match": any(results), "events": len(events), "matched": sum(results)}).decode()
        )
    elif len(events) == 1:
        click.echo("match" if results[0] else "no match")
    else:
        for line, taken in zip(events, results, strict=True):
            if taken:
                click.echo(line.content.decode())
    found(any(results), fail_empty)
