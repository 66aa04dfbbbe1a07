"""SIGKILL a process whose operators edit, redrive, move and discard dead letters, and hold store and audit to account.

    python tests/faults/letter_kills.py [cycles] [--seed N] [--durability full|normal]

A child works on a standard and a FIFO queue: messages are sent, die, are edited where they lie, sent back with and
without an edit, at once and at a rate, die again, and are discarded or acknowledged; it tells what it was answered
through a pipe. After each kill a copy of the store is opened, with its moves standing still, and compared:

- lost: a message was accepted, and is in no queue, and was neither acknowledged nor, says the audit, discarded
- twice: a message is in two places, or is still there though it was discarded
- strayed: where a message says it has been is not where the audit says it was sent back from, or not under its first id
- torn: a body is not what its edits in the audit make of it, one after the other; or a copy in another queue changed
- untold: what was answered is not in the audit; or the audit counts otherwise than the store, or takes what is over for
  under way
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from itertools import count
from pathlib import Path

import anyio
import msgspec
from msgspec import Struct, field

from pipeflow.audit import Entry
from pipeflow.edits import Edit, fingerprint, parse_edit
from pipeflow.embedded.moving import Moving
from pipeflow.errors import NotFound, RefusedError
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import Ack, Bury, Failure, Outgoing, Sent, Want
from pipeflow.moves import Move
from pipeflow.protocols import Peeked, Store
from pipeflow.registry import open_store
from pipeflow.specs import ClaimSpec, QueueSpec, Subscription, TopicSpec, Topology
from queue_kills import complaints

QUEUES = ("work", "line")
ALIVE = 150
"""Messages of one queue and its dead letters that producers keep up."""
TOPOLOGY = Topology(
    topics=(TopicSpec("t"),),
    queues=(
        QueueSpec("work", dead_letters="work-dlq"),
        QueueSpec("line", fifo=True, dead_letters="line-dlq"),
        QueueSpec("copies"),
    ),
    subscriptions=(Subscription("t", "queue", "work"), Subscription("t", "queue", "copies")),
    # Of the longest a third, so that edits also read and write bodies in files.
    claims=ClaimSpec(inline_bytes=600),
)


def body_of(key: str) -> bytes:
    """What is sent under a key; most are long enough to be stored once for all queues."""
    return msgspec.json.encode({"key": key, "total": 5, "filler": "x" * (sum(key.encode()) * 37 % 900)})


# --- the child -------------------------------------------------------------------------------------------------------


def tell(**what: object) -> None:
    """One line, written before anything else happens: the parent reads it even when we die right after."""
    line = json.dumps(what).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


async def produce(store: Store, queue: str, name: str, dice: random.Random) -> None:
    numbers = count()
    while True:
        stats = next(each for each in (await store.stats()).queues if each.name == queue)
        if stats.ready + stats.in_flight + stats.dead >= ALIVE:
            await anyio.sleep(0.01)
            continue
        keys = [f"{name}.{next(numbers)}" for _ in range(dice.choice((1, 5, 20)))]
        group = f"g{dice.randrange(4)}" if queue == "line" else None
        batch = [
            Outgoing(body_of(key), group=group, dedup_id=key)
            if group
            else Outgoing(body_of(key), priority=dice.choice((0, 0, 0, 3, 9)))
            for key in keys
        ]
        tell(sending=keys, queue=queue)
        results = await (store.send("line", batch) if group else store.publish("t", batch))
        tell(sent=[(key, each.id) for key, each in zip(keys, results, strict=True) if isinstance(each, Sent)])


async def die(store: Store, queue: str, dice: random.Random) -> None:
    """Most messages fail for good; some are handled at last."""
    while True:
        for delivery in await store.receive(queue, Want(limit=5, wait=20)):
            if dice.random() < 0.1:
                tell(handling=json.loads(delivery.body)["key"])
                await store.settle(queue, [Ack(delivery.receipt)])
                continue
            failure = Failure(store.clock.now(), delivery.attempt, "ValueError", "bad", "0badc0de")
            await store.settle(queue, [Bury(delivery.receipt, failure)])


async def operate(store: Store, queue: str, name: str, dice: random.Random) -> None:
    numbers = count(1)
    while True:
        letters = await store.peek(queue, 60, True)
        edit = parse_edit([f"body.total={next(numbers)}", f'body.by="{name}"'])
        if letters:
            try:
                await act(store, queue, [letter.id for letter in letters], edit, dice)
            except (RefusedError, NotFound):
                pass  # a move is under way, or the letter went meanwhile
        # Who only looks, over and over, would leave the journal's thread no turn to bring the first letter.
        await anyio.sleep(0.001 if letters else 0.01)


async def act(store: Store, queue: str, ids: list[str], edit: Edit, dice: random.Random) -> None:
    some = tuple(dice.sample(ids, min(len(ids), dice.randrange(1, 4))))
    maybe = edit if dice.random() < 0.6 else None
    match dice.randrange(10):
        case 0 | 1 | 2 | 3:
            change = await store.edit(Rewrite(queue, some[0], edit))
            tell(edited=change.id, digest=change.after.digest)
        case 4:
            tell(discarded=(await store.discard(Discard(queue, ids=some))).ids)
        case 5 | 6:
            tell(redriven=(await store.redrive(Redrive(queue, ids=some, edit=maybe))).ids)
        case 7:
            tell(redriven=(await store.redrive(Redrive(queue, limit=dice.randrange(1, 30), edit=maybe))).ids)
        case 8:
            limit, rate = dice.randrange(1, 40), dice.choice((100.0, 500.0, None))
            tell(started=(await store.start_move(Redrive(queue, limit=limit, rate=rate, edit=maybe))).id)
        case _:
            under_way = [move for move in await store.moves(queue) if move.under_way]
            if under_way and dice.random() < 0.3:
                tell(cancelled=(await store.cancel_move(under_way[0].id)).id)


async def child(url: str, cycle: int, seed: int) -> None:
    store = await open_store(url)
    await store.declare(TOPOLOGY)
    dice = random.Random(seed * 1_000_003 + cycle)
    tell(ready=True)
    async with anyio.create_task_group() as tasks:
        for queue in QUEUES:
            tasks.start_soon(produce, store, queue, f"{queue}{cycle}", dice)
            for number in range(2):
                tasks.start_soon(die, store, queue, dice)
                tasks.start_soon(operate, store, queue, f"{cycle}.{number}", dice)


# --- the parent ------------------------------------------------------------------------------------------------------


class Told(Struct):
    """What the children were answered."""

    sending: dict[str, str] = field(default_factory=dict)
    """Queue by key."""
    sent: dict[str, str] = field(default_factory=dict)
    """First id by key."""
    handling: set[str] = field(default_factory=set)
    edited: list[tuple[str, str]] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    redriven: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def hear(self, line: bytes) -> None:
        """One line of a child."""
        match json.loads(line):
            case {"sending": keys, "queue": queue}:
                self.sending |= dict.fromkeys(keys, queue)
            case {"sent": pairs}:
                self.sent |= dict(pairs)
            case {"handling": key}:
                self.handling.add(key)
            case {"edited": id, "digest": digest}:
                self.edited.append((id, digest))
            case {"discarded": ids}:
                self.discarded += ids
            case {"redriven": ids}:
                self.redriven += ids
            case {"started": id}:
                self.started.append(id)
            case {"cancelled": id}:
                self.cancelled.append(id)


class Found(Struct):
    """What lies in a store that a kill left."""

    messages: list[Peeked]
    copies: list[Peeked]
    moves: list[Move]
    entries: list[Entry]
    """The whole audit, oldest first."""
    redriven: int
    discarded: int
    damaged: int


async def look(url: str) -> Found:
    """Everything in a store, while nothing moves."""
    store = await open_store(url)
    entries: list[Entry] = []
    while page := await store.audit(None, 1000, entries[-1].number if entries else None):
        entries += page
    messages = [m for q in QUEUES for dead in (False, True) for m in await store.peek(q, 100_000, dead)]
    stats = [each for each in (await store.stats()).queues if each.name in QUEUES]
    found = Found(
        messages,
        await store.peek("copies", 100_000),
        await store.moves(),
        entries[::-1],
        sum(each.redriven for each in stats),
        sum(each.discarded for each in stats),
        (await store.stats()).quarantined,
    )
    await store.close()
    return found


async def standing_still(moving: Moving) -> None:
    """In place of `Moving.run`: the moves of a store that is only looked at wait."""
    del moving
    await anyio.sleep_forever()


def violations(found: Found, told: Told) -> dict[str, list[str]]:
    """What is wrong, by the rule it breaks."""
    wrong: dict[str, list[str]] = defaultdict(list)
    by_action: dict[str, list[Entry]] = defaultdict(list)
    for entry in found.entries:
        by_action[entry.action].append(entry)
    sent_back = [id for action in ("redrive", "move") for entry in by_action[action] for id in entry.ids]
    discarded = {id for entry in by_action["discard"] for id in entry.ids}
    _places(found, told, discarded, set(sent_back), wrong)
    _bodies(found, wrong)
    _answers(found, told, by_action, sent_back, discarded, wrong)
    return wrong


def _key(message: Peeked) -> str:
    key: str = msgspec.json.decode(message.body)["key"]
    return key


def _places(found: Found, told: Told, discarded: set[str], sent_back: set[str], wrong: dict[str, list[str]]) -> None:
    here = Counter(_key(message) for message in found.messages)
    wrong["twice"] += [key for key, times in here.items() if times > 1]
    wrong["twice"] += [message.id for message in found.messages if message.id in discarded | sent_back]
    gone = set(told.sent) - set(here) - told.handling
    # Of what is gone only the audit can tell: each is behind one id that was discarded.
    first = {message.provenance.id if message.provenance else message.id for message in found.messages}
    wrong["lost"] += [key for key in gone if told.sent[key] in first]
    if len(gone) > len(discarded):
        wrong["lost"].append(f"{len(gone)} are gone, {len(discarded)} were discarded")
    for message in found.messages:
        been, sent = message.provenance, told.sent.get(_key(message))
        if been is None:
            wrong["strayed"] += [message.id] if sent not in (None, message.id) else []
            continue
        passed = {passage.id for passage in been.passages}
        if sent not in (None, been.id) or not passed <= sent_back or been.redrives < len(passed):
            wrong["strayed"].append(f"{message.id} was {been.id}, sent as {sent}")


def _bodies(found: Found, wrong: dict[str, list[str]]) -> None:
    edits: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for entry in found.entries:
        for id, (before, after) in zip(entry.ids, entry.digests, strict=False):
            # A letter is edited where it lies before it is edited on its way.
            edits[id].append((entry.number + (entry.action != "edit") * 10**9, before, after))
    for message in found.messages:
        been = message.provenance
        chain = [*(passage.id for passage in been.passages), message.id] if been else [message.id]
        whole = been is None or been.redrives == len(been.passages)
        now = fingerprint(body_of(_key(message))) if whole else None
        for _, before, after in (each for id in chain for each in sorted(edits[id])):
            if now not in (None, before):
                wrong["torn"].append(f"{message.id}: edited from {before}, but was {now}")
            now = after
        if now not in (None, fingerprint(message.body)):
            wrong["torn"].append(f"{message.id}: its body is {fingerprint(message.body)}, its edits make {now}")
    wrong["torn"] += [copy.id for copy in found.copies if copy.body != body_of(_key(copy))]
    wrong["torn"] += ["damaged rows"] * found.damaged


def _answers(
    found: Found,
    told: Told,
    by_action: dict[str, list[Entry]],
    sent_back: list[str],
    discarded: set[str],
    wrong: dict[str, list[str]],
) -> None:
    edited = {(entry.ids[0], entry.digests[0][1]) for entry in by_action["edit"]}
    wrong["untold"] += [id for id, digest in told.edited if (id, digest) not in edited]
    wrong["untold"] += [id for id in told.discarded if id not in discarded]
    wrong["untold"] += [id for id in told.redriven if id not in set(sent_back)]
    moves = {action: {entry.move for entry in by_action[action]} for action in ("move", "cancel")}
    wrong["untold"] += [id for id in told.started if id not in moves["move"]]
    wrong["untold"] += [id for id in told.cancelled if id not in moves["cancel"]]
    counts = sum(entry.count for action in ("redrive", "move") for entry in by_action[action])
    if counts != found.redriven or len(sent_back) != len(set(sent_back)):
        wrong["untold"].append(f"{counts} were sent back says the audit, {found.redriven} the store")
    going_on = {move.entry for move in found.moves if move.under_way}
    wrong["untold"] += [
        f"{entry.action} {entry.number} is over, and told as under way"
        for entry in found.entries
        if not entry.finished and entry.number not in going_on
    ]
    thrown = sum(entry.count for entry in by_action["discard"])
    if thrown != found.discarded or thrown != len(discarded):
        wrong["untold"].append(f"{thrown} were discarded says the audit, {found.discarded} the store")


def live(process: subprocess.Popen[bytes], told: Told, seconds: float) -> None:
    """Hear a child, kill it so long after it is ready, and hear what was left in the pipe."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if line:
        timer = threading.Timer(seconds, process.send_signal, (signal.SIGKILL,))
        timer.start()
        for line in process.stdout:
            if line.endswith(b"\n"):
                told.hear(line)
        timer.join()


def campaign(cycles: int, seed: int, durability: str, directory: Path) -> dict[str, object]:
    """Run the cycles; the figures, all violations counted."""
    options = f"?durability={durability}&hot_messages=20&log_bytes=65536"
    database, copy = directory / "letters.db", directory / "copy.db"
    told, dice, crashed, wrong = Told(), random.Random(seed), list[str](), Counter[str]()
    found, examples, run = Found([], [], [], [], 0, 0, 0), list[str](), Moving.run
    for cycle in range(cycles):
        process = subprocess.Popen(
            [sys.executable, __file__, "--child", f"sqlite:///{database}{options}", str(cycle), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        live(process, told, dice.uniform(0.05, 0.6))
        crashed += complaints(process, expected=-signal.SIGKILL)
        for suffix in ("-log", "", "-wal"):
            shutil.copy(f"{database}{suffix}", f"{copy}{suffix}")
        shutil.rmtree(f"{copy}-claims", ignore_errors=True)
        if Path(f"{database}-claims").exists():
            shutil.copytree(f"{database}-claims", f"{copy}-claims")
        Moving.run = standing_still  # type: ignore[method-assign, assignment]
        try:
            found = anyio.run(look, f"sqlite:///{copy}{options}")
        finally:
            Moving.run = run  # type: ignore[method-assign]
        for rule, broken in violations(found, told).items():
            wrong[rule] += len(broken)
            examples += [f"cycle {cycle}: {rule}: {each}" for each in broken[:3]]
        if crashed or examples:
            break
    entries = Counter(entry.action for entry in found.entries)
    return {
        "campaign": "letter_kills",
        "seed": seed,
        "durability": durability,
        "cycles": cycles,
        "sent": len(told.sent),
        "handled": len(told.handling),
        "redriven": found.redriven,
        "discarded": found.discarded,
        "entries": dict(entries),
        "files": sum(path.is_file() for path in Path(f"{database}-claims").rglob("*")),
        "unfinished": sum(not entry.finished for entry in found.entries),
        **{rule: wrong[rule] for rule in ("lost", "twice", "strayed", "torn", "untold")},
        "examples": examples[:10],
        "crashes": crashed,
    }


def clean(result: dict[str, object]) -> bool:
    """Whether every rule was kept."""
    return not any(result[rule] for rule in ("lost", "twice", "strayed", "torn", "untold", "crashes"))


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 a process whose operators work on dead letters")
    parser.add_argument("cycles", nargs="?", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = campaign(options.cycles, options.seed, options.durability, Path(directory))
    print(json.dumps(result))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        anyio.run(child, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main())
