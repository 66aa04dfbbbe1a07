"""What was measured, as JSON and tables, as a page of the documentation, and as the part of it the README shows."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from _rounds import median, table

from _brokers.picture import picture
from _brokers.servers import versions
from _brokers.systems import BACKGROUND, FULL, PIPEFLOW, System

Rounds = list[dict[str, float]]
Measured = dict[tuple[int, int], dict[System, Rounds]]
"""By callers and batch, and system: a figure of each name for every round."""

AT = 64
TARGETS = {FULL: 5.0, BACKGROUND: 2.0}
"""Times the fastest peer of the kind, at 64 callers singly."""
BATCH_TARGET = 1.5
"""Batches of 10 times single calls, pipeflow's own."""
KINDS = {FULL: "Synced before it answers", BACKGROUND: "Synced later, or never"}
BEGINS, ENDS = "<!-- figures of benchmarks/brokers.py -->", "<!-- end of figures -->"
PEERS = ("redis", "nats-py", "asyncpg", "huey", "persist-queue", "litequeue", "saq", "taskiq", "dramatiq")


def middle(rounds: Rounds, name: str = "per_second") -> float:
    return median([each[name] for each in rounds])


def times(mine: Rounds, other: Rounds) -> float:
    """The median of the rounds' own ratios."""
    # Some rest after the first round.
    pairs = zip(mine, other, strict=False)
    return median([a["per_second"] / b["per_second"] for a, b in pairs if b["per_second"]])


def ours(cell: dict[System, Rounds], kind: str) -> Rounds | None:
    return next((rounds for system, rounds in cell.items() if system.name == PIPEFLOW[kind]), None)


def fastest(cell: dict[System, Rounds], kind: str) -> System | None:
    peers = [each for each in cell if each.kind == kind and each.name != PIPEFLOW[kind]]
    return max(peers, key=lambda system: middle(cell[system]), default=None)


def tell(found: Measured, absent: Mapping[System, str]) -> None:
    """One JSON object a line, and tables for people."""
    for system, why in absent.items():
        nothing = {"callers": 0, "batch": 0, "messages_per_second": None}
        print(json.dumps({"system": system.name, "kind": system.kind, **nothing, "skipped": why}))
    for (callers, batch), cell in found.items():
        for kind, words in KINDS.items():
            mine, best, lines = ours(cell, kind), fastest(cell, kind), []
            for system, rounds in cell.items():
                if system.kind != kind:
                    continue
                result: dict[str, object] = {
                    "system": system.name,
                    "kind": kind,
                    "callers": callers,
                    "batch": batch,
                    "messages_per_second": round(middle(rounds)),
                    "send_p50_ms": round(middle(rounds, "p50"), 3),
                    "send_p99_ms": round(middle(rounds, "p99"), 3),
                    "client_us": round(middle(rounds, "client_us"), 1),
                    "server_us": round(middle(rounds, "server_us"), 1),
                    "rounds": len(rounds),
                }
                if mine is not None and rounds is not mine:
                    result["pipeflow_times_this"] = round(times(mine, rounds), 2)
                if rounds is mine and best is not None and callers == AT and batch == 1:
                    result["target"] = TARGETS[kind]
                    result["reached"] = times(rounds, cell[best]) >= TARGETS[kind]
                print(json.dumps(result), flush=True)
                lines.append((system.name, *list(result.values())[4:9], result.get("pipeflow_times_this", "")))
            title = f"{words}; {callers:,} callers, " + ("singly" if batch == 1 else f"batches of {batch}")
            table(title, ("", "messages/s", "p50 ms", "p99 ms", "client us", "server us", "pipeflow x"), lines)


def write(found: Measured, absent: Mapping[System, str], root: Path) -> None:
    """The page, its picture, and the README's part of it."""
    page = root / "docs" / "brokers.md"
    text = page.read_text()
    page.write_text(_between(text, _figures(found, absent)))
    (root / "docs" / "brokers.svg").write_text(picture(found, KINDS))
    readme = root / "README.md"
    readme.write_text(_between(readme.read_text(), _short(found)))


def _between(text: str, figures: str) -> str:
    before, rest = text.split(BEGINS)
    _, after = rest.split(ENDS)
    return f"{before}{BEGINS}\n{figures}{ENDS}{after}"


def _figures(found: Measured, absent: Mapping[System, str]) -> str:
    rounds = max(len(each) for cell in found.values() for each in cell.values())
    where = f"{rounds} rounds, {platform.system()}, Python {platform.python_version()}"
    lines = [f"{_when()} {where}; {', '.join(_versions())}.", ""]
    for kind, words in KINDS.items():
        lines += [f"### {words}", "", *_rates(found, kind), "", *_costs(found, kind), ""]
    lines += [*_verdicts(found), *(f"- {system.name}: skipped, {why}." for system, why in absent.items()), ""]
    return "\n".join(lines)


def _when() -> str:
    return f"{time.strftime('%-d %B %Y')}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}."


def _versions() -> Sequence[str]:
    found = versions()
    for package in PEERS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def _rates(found: Measured, kind: str) -> list[str]:
    cells = list(found)
    heads = [f"{callers:,} {'singly' if batch == 1 else f'by {batch}'}" for callers, batch in cells]
    lines = ["| messages a second (pipeflow's times as many) | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(cells) + 1) + "|")
    for system in [each for each in found[cells[0]] if each.kind == kind]:
        texts = []
        for cell in cells:
            rounds, mine = found[cell][system], ours(found[cell], kind)
            ratio = (
                f" ({times(mine, rounds):.1f})" if mine is not None and mine is not rounds and middle(rounds) else ""
            )
            texts.append(f"{middle(rounds):,.0f}{ratio}")
        lines.append(f"| {system.name} | " + " | ".join(texts) + " |")
    return lines


def _costs(found: Measured, kind: str) -> list[str]:
    cell = found.get((AT, 1))
    if cell is None:
        return []
    lines = [
        f"| {AT} callers singly | syncs | send p50 / p99 ms | client, server: us of processor time a message |",
        "|---|---|---|---|",
    ]
    for system, rounds in cell.items():
        if system.kind == kind:
            p50, p99, client, server = (middle(rounds, name) for name in ("p50", "p99", "client_us", "server_us"))
            lines.append(f"| {system.name} | {system.syncs} | {p50:.1f} / {p99:.1f} | {client:.0f}, {server:.0f} |")
    return lines


def _verdicts(found: Measured) -> list[str]:
    lines, single, many = [], found.get((AT, 1)), found.get((AT, 10))
    for kind, target in TARGETS.items():
        mine = ours(single, kind) if single else None
        best = fastest(single, kind) if single else None
        if single is None or mine is None or best is None:
            continue
        ratio = times(mine, single[best])
        lines.append(
            f"- {PIPEFLOW[kind]}, {AT} callers singly: {ratio:.1f} times {best.name}, the fastest of its kind (target"
            f" {target:g}: {'reached' if ratio >= target else 'missed'})."
        )
        by_ten = ours(many, kind) if many else None
        if by_ten is not None:
            ratio = times(by_ten, mine)
            verdict = "reached" if ratio >= BATCH_TARGET else "missed"
            lines.append(
                f"- In batches of 10: {ratio:.1f} times its single calls (target {BATCH_TARGET:g}: {verdict})."
            )
    return lines


def _short(found: Measured) -> str:
    lines = [f"Messages a second, and how many times as many pipeflow carries. {_when()}", ""]
    for kind, words in KINDS.items():
        if (AT, 1) not in found:
            continue
        single, many = found[AT, 1], found.get((AT, 10), {})
        lines += [f"| {words} | singly | times | by 10 | times |", "|---|---|---|---|---|"]
        ordered = sorted((each for each in single if each.kind == kind), key=lambda each: -middle(single[each]))
        for system in ordered:
            texts = []
            for cell in (single, many):
                mine = ours(cell, kind)
                if system not in cell or mine is None:
                    texts += ["", ""]
                    continue
                texts.append(f"{middle(cell[system]):,.0f}")
                compared = cell[system] is not mine and middle(cell[system])
                texts.append(f"{times(mine, cell[system]):.1f}" if compared else "")
            lines.append(f"| {system.name} | " + " | ".join(texts) + " |")
        lines.append("")
    return "\n".join(lines)
