"""`pipeflow dlq show`, `edit` and `discard`: one dead letter whole, changed where it lies, or deleted for good."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from difflib import unified_diff
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from pipeflow.cli import units
from pipeflow.cli.opening import ask, known, store_options, store_url
from pipeflow.cli.output import Row, count, fail_empty_option, found, json_option, one_line, say, show_one
from pipeflow.cli.peek import row_of, wanted
from pipeflow.codecs import Codec
from pipeflow.edits import Edit, apply, fingerprint, parse_edit
from pipeflow.embedded.weighing import attributes_size
from pipeflow.errors import CodecError, ConfigurationError, NotFound
from pipeflow.letters import PROVENANCE, Change, Discard, Discarded, Rewrite, Seen
from pipeflow.protocols import Peeked, Store
from pipeflow.specs import FilterPolicy, QueueSpec
from pipeflow.texts import encodable

C = TypeVar("C", bound=Callable[..., object])

LONGEST_TEXT = 64 << 10
"""Characters of a body that is shown to a person."""
LONGEST_HEX = 4 << 10
"""Bytes of a body that is no text."""
LONGEST_BODY = 48 << 20
"""Bytes of a new body: it goes through the owner's socket in one frame."""


def user_option(command: C) -> C:
    """`--user`, handed to the command as `user`."""
    return click.option(
        "--user",
        metavar="NAME",
        default="",
        envvar="PIPEFLOW_USER",
        show_envvar=True,
        callback=lambda context, parameter, name: encodable(name),
        help="Who does this, for the audit. Default: the user of this process.",
    )(command)


async def with_dead_letters(store: Store, queue: str) -> QueueSpec:
    """The queue, which has dead letters; NotFound, or ConfigurationError that says which queue has."""
    await known(store, "queue", queue)
    specs = (await store.describe()).queues
    spec = next(spec for spec in specs if spec.name == queue)
    if spec.dead_letters is None:
        source = [other.name for other in specs if other.dead_letters == queue]
        hint = f"; it holds those of {', '.join(source)}: name that queue" if source else ""
        raise ConfigurationError(f"{queue}: this queue has no dead letters{hint}")
    return spec


async def one(store: Store, queue: str, id: str) -> Peeked:
    """The dead letter whose id is, or uniquely begins with, `id`."""
    await with_dead_letters(store, queue)
    if not id:
        # A variable of a shell that is not set: the only letter there is was not meant.
        raise click.UsageError("an empty id; write that of a letter, or its beginning")
    letters = await store.peek(queue, 10, True, _of_id({"prefix": id}))
    if len(letters) == 1:
        return letters[0]
    if letters:
        if whole := await store.peek(queue, 1, True, _of_id(id)):
            return whole[0]
        ids = ", ".join(letter.id for letter in letters)
        raise NotFound(f"{queue}: several dead letters begin with {id!r}: {ids}; write more of the id")
    raise NotFound(f"{queue}: no dead letter {id!r}; pipeflow dlq ls {queue} lists them")


def _of_id(rule: object) -> FilterPolicy:
    return FilterPolicy(_json({"id": [rule]}), "body")


async def named(store: Store, queue: str, ids: Sequence[str]) -> tuple[str, ...] | None:
    """The whole ids of these beginnings; None for none."""
    return tuple([(await one(store, queue, id)).id for id in ids]) or None


# -- show -----------------------------------------------------------------------------------------------------------


async def whole(store: Store, queue: str, id: str) -> tuple[Row, str]:
    """Everything about one letter, for a program and for a person."""
    letter, now = await one(store, queue, id), store.clock.now()
    row = {
        **row_of(letter, now),
        "headers": letter.headers,
        "first_received_at": letter.first_received_at,
        "received_at": letter.received_at,
        "kept_until": letter.kept_until,
        "digest": fingerprint(letter.body),
        "provenance": msgspec.structs.asdict(letter.provenance) if letter.provenance is not None else None,
    }
    if not _is_text(letter.body):
        row["body_base64"] = b64encode(letter.body).decode()
    return row, written(letter, row)


def written(letter: Peeked, row: Row) -> str:
    """Everything about one message, for a person."""
    times = ("sent_at", "first_received_at", "received_at", "kept_until")
    lines = [
        _line(key, _at(float(str(row[key]))) if key in times else str(row[key]))
        for key in ("id", "queue", "dead_letter_source", "attempt", *times, "group", "dedup_id", "sequence", "size")
        if row[key] is not None
    ]
    been = letter.provenance
    if been is not None:
        lines.append(_line("redriven", f"{count(been.redrives)} times; first sent {_at(been.sent_at)} as {been.id}"))
        lines += [
            _line("", f"{_at(passage.at)}  back from {passage.letters}, dead of {passage.source}, as {passage.id}")
            for passage in been.passages
        ]
    lines += [_line("attribute", f"{name} = {_json(value)}") for name, value in letter.attributes.items()]
    lines += [
        _line("header", f"{name} = {one_line(value)}") for name, value in letter.headers.items() if name != PROVENANCE
    ]
    lines += [_line("failed", _failure(msgspec.structs.asdict(failure))) for failure in letter.failures]
    return "\n".join([*lines, "", shown(letter.body)])


def _line(key: str, text: str) -> str:
    return f"{f'{key}:' if key else '':<19} {text}"


def _at(at: float) -> str:
    return units.clock_time(at)


def _failure(failure: Mapping[str, Any]) -> str:
    place = f"  [{failure['digest']}]" if failure["digest"] else ""
    told = f"{failure['type']}: {one_line(failure['message'])}{place}"
    return f"{_at(failure['at'])}  attempt {failure['attempt']}  {told}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _is_text(body: bytes) -> bool:
    try:
        return all(char.isprintable() or char in "\n\r\t" for char in body.decode())
    except UnicodeDecodeError:
        return False


def shown(body: bytes) -> str:
    """A body for a person: JSON in lines, text, or else bytes in hex; its beginning when it is long."""
    if not _is_text(body):
        lines = [_hex(body, start) for start in range(0, min(len(body), LONGEST_HEX), 16)]
        more = [f"... {count(len(body) - LONGEST_HEX)} more bytes"] if len(body) > LONGEST_HEX else []
        return "\n".join([*lines, *more])
    text = pretty(body)
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}\n... {count(len(text) - LONGEST_TEXT)} more characters; --json has them"


def _hex(body: bytes, start: int) -> str:
    row = body[start : start + 16]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
    return f"{start:08x}  {row.hex(' '):<47}  {text}"


def pretty(body: bytes) -> str:
    """JSON in lines, and text as it is. Numbers stay as they are written."""
    try:
        return msgspec.json.format(body).decode()
    except (msgspec.DecodeError, RecursionError):
        return body.decode(errors="replace")


@click.command("show")
@click.argument("queue")
@click.argument("id")
@store_options
@json_option
def show_letter(queue: str, id: str, broker: str | None, app: str | None, as_json: bool) -> None:
    """Show one dead letter of QUEUE whole: every failed attempt, where it has been, headers, body.

    ID may be its beginning.
    """
    row, text = ask(store_url(broker, app), lambda store: whole(store, queue, id))
    show_one(row, text, as_json=as_json)


# -- edit -----------------------------------------------------------------------------------------------------------


def codec_of(queue: str, broker: str | None, app: str | None) -> Codec[Any] | None:
    """How this queue's type is read, where an app is named or found; None where only its store is."""
    if broker is not None and app is None:
        return None
    from pipeflow.cli.loading import load_app

    return next((each.codec for each in load_app(app).queues if each.name == queue), None)


def check_type(queue: str, codec: Codec[Any] | None, edit: Edit, letter: Peeked) -> None:
    """CodecError when the queue's handler could not read what the edit makes of a letter."""
    if codec is None or (edit.body is None and not _is_whole(letter)):
        return
    body, _ = apply(edit, letter.body, letter.attributes)
    try:
        codec.decode(body)
    except CodecError as error:
        raise CodecError(f"{queue}: {letter.id} is not changed, as its handler could not read it: {error}") from None


async def change_one(
    store: Store, queue: str, id: str, edit: Edit, codec: Codec[Any] | None, expects: str, dry_run: bool, user: str
) -> Change:
    """Change one letter, once the queue's own type takes it."""
    letter = await one(store, queue, id)
    check_type(queue, codec, edit, letter)
    return await store.edit(Rewrite(queue, letter.id, edit, expects, dry_run, user))


def differences(change: Change) -> str:
    """What an edit makes of a letter, line by line."""
    before, after = _lines(change.before), _lines(change.after)
    # The first three lines of a diff name files, which there are none of.
    lines = [line for line in list(unified_diff(before, after, n=2, lineterm=""))[2:] if not line.startswith("@@")]
    return "\n".join([change.id, *(lines or ["(nothing changes)"])])


def _lines(seen: Seen) -> list[str]:
    attributes = [f"attributes.{name} = {_json(value)}" for name, value in sorted(seen.attributes.items())]
    return [*attributes, *shown(seen.body).splitlines()]


def change_row(change: Change) -> Row:
    """The same for a program."""
    sides = {"before": change.before, "after": change.after}
    told = {
        side: {
            "body": pretty(seen.body) if not _is_json(seen.body) else msgspec.Raw(seen.body),
            "size": seen.size,
            "digest": seen.digest,
            "attributes": seen.attributes,
        }
        for side, seen in sides.items()
    }
    return {"id": change.id, **told}


def _is_whole(letter: Peeked) -> bool:
    """Whether all of its body is here; of one that is kept aside only the beginning is."""
    return letter.size <= len(letter.body) + attributes_size(letter.attributes)


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _new_body(place: str | None) -> bytes | None:
    if place is None:
        return None
    body = sys.stdin.buffer.read(LONGEST_BODY + 1) if place == "-" else Path(place).read_bytes()
    if len(body) > LONGEST_BODY:
        raise click.UsageError(f"--body {place}: more than {count(LONGEST_BODY)} bytes; send it as a new message")
    return body


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _by_hand(letter: Peeked) -> bytes | None:
    """What an editor made of the body; None: nothing."""
    if not _is_whole(letter):
        raise click.UsageError(f"{letter.id}: its body is too large for an editor; use --set or --body FILE")
    if letter.size > LONGEST_BODY or not _is_text(letter.body):
        raise click.UsageError(f"{letter.id}: its body is no text for an editor; use --set or --body FILE")
    before = pretty(letter.body)
    after = click.edit(before, extension=".json" if _is_json(letter.body) else ".txt", require_save=True)
    return None if after is None or after.strip() == before.strip() else after.strip().encode()


@click.command("edit")
@click.argument("queue")
@click.argument("id")
@click.option(
    "--set", "terms", multiple=True, metavar="PATH=VALUE", help="body.total=0, attributes.kind=placed; repeat."
)
@click.option("--body", "place", metavar="FILE", help="The new body; - is stdin.")
@click.option("--raw", is_flag=True, help="The new body need not be JSON.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@user_option
@store_options
@json_option
def edit_letter(
    queue: str,
    id: str,
    terms: tuple[str, ...],
    place: str | None,
    raw: bool,
    dry_run: bool,
    user: str,
    broker: str | None,
    app: str | None,
    as_json: bool,
) -> None:
    """Change one dead letter of QUEUE where it lies; its id, its place and its failures stay.

    Without --set and --body an editor opens its body. VALUE is JSON where it is JSON, else text. Where the app is
    known, the queue's own type must take the outcome.
    """
    url, codec, expects = store_url(broker, app), codec_of(queue, broker, app), ""
    body = _new_body(place)
    if not terms and body is None:
        if not _on_terminal():
            raise click.UsageError("what is to change? give --set PATH=VALUE or --body FILE")
        letter = ask(url, lambda store: one(store, queue, id))
        body, expects, id = _by_hand(letter), fingerprint(letter.body), letter.id
        if body is None:
            say(f"{letter.id}: nothing changed")
            return
    edit = parse_edit(terms, body, raw=raw or (codec is not None and codec.name != "json"))
    change = ask(url, lambda store: change_one(store, queue, id, edit, codec, expects, dry_run, user))
    show_one(change_row(change), differences(change), as_json=as_json)
    if dry_run:
        say("nothing was changed")


# -- discard --------------------------------------------------------------------------------------------------------


async def throw_away(store: Store, request: Discard, ids: Sequence[str], where: str | None) -> Discarded:
    """Delete letters for good, or only count them."""
    await with_dead_letters(store, request.queue)
    whole_ids = await named(store, request.queue, ids)
    chosen = wanted(where, store.clock.now())
    return await store.discard(
        msgspec.structs.replace(request, ids=whole_ids, where=chosen, every=whole_ids is None and chosen is None)
    )


@click.command("discard")
@click.argument("queue")
@click.option("--id", "ids", multiple=True, metavar="ID", help="This one; may be its beginning; repeat.")
@click.option("--where", metavar="EXPR", help="Those that match, as in `pipeflow peek`.")
@click.option("--all", "every", is_flag=True, help="Every one of them.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--dry-run", is_flag=True, help="Count what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@user_option
@store_options
@json_option
@fail_empty_option
def discard(
    queue: str,
    ids: tuple[str, ...],
    where: str | None,
    every: bool,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    user: str,
    broker: str | None,
    app: str | None,
    as_json: bool,
    fail_empty: bool,
) -> None:
    """Delete dead letters of QUEUE for good, counted and told in the audit. There is no way back."""
    if every == bool(ids or where):
        raise click.UsageError("which ones? name them by --id, by --where, or all of them by --all")
    url = store_url(broker, app)
    if not yes and not dry_run:
        if not sys.stdin.isatty():
            raise click.UsageError(f"discarding dead letters of {queue} deletes them for good: add --yes")
        click.confirm(f"Delete dead letters of {queue} in {url} for good?", abort=True, err=True)
    request = Discard(queue, every=True, limit=limit, dry_run=dry_run, user=user)
    done = ask(url, lambda store: throw_away(store, request, ids, where))
    text = f"{count(done.matched)} of {count(done.examined)} dead letters match; "
    text += "nothing was deleted" if dry_run else f"{count(done.discarded)} deleted"
    show_one({"queue": queue, "dry_run": dry_run, **msgspec.structs.asdict(done)}, text, as_json=as_json)
    found(done.matched, fail_empty)
