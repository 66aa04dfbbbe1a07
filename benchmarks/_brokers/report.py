"""What was measured, as JSON and tables, as a page of the documentation, and as the part of it the README shows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from _rounds import median, table

from _brokers.picture import picture
from _brokers.results import Cell, Results, Round, Rounds
from _brokers.servers import versions
from _brokers.systems import BACKGROUND, COMPILED, FULL, PIPEFLOW, SYSTEMS, System

AT = 64
TARGETS = {FULL: 5.0, BACKGROUND: 2.0}
"""Times the fastest peer of the kind, at 64 callers singly."""
BATCH_TARGET = 1.5
"""Batches of 10 times single calls, pipeflow's own."""
KINDS = {FULL: "Synced before it answers", BACKGROUND: "Synced later, or never"}
OURS = {*PIPEFLOW.values(), *COMPILED.values()}
BEGINS, ENDS = "<!-- figures of benchmarks/brokers.py -->", "<!-- end of figures -->"
COLUMNS = (
    "messages_per_second",
    "send_p50_ms",
    "send_p99_ms",
    "client_us",
    "server_us",
    "rounds",
    "pipeflow_times_this",
)
PEERS = ("redis", "nats-py", "asyncpg", "huey", "persist-queue", "litequeue", "saq", "taskiq", "dramatiq")


def middle(rounds: Rounds, name: str = "per_second") -> float:
    return median([each[name] for each in rounds.values()])


def times(mine: Rounds, other: Rounds) -> float:
    """The median of the rounds' own ratios; of those in which both were measured, because some rest or fail."""
    pairs = [(mine[number], other[number]) for number in mine.keys() & other.keys()]
    return median([a["per_second"] / b["per_second"] for a, b in pairs if b["per_second"]])


def ours(cell: Mapping[System, Rounds], kind: str, names: Mapping[str, str] = PIPEFLOW) -> Rounds | None:
    return next((rounds for system, rounds in cell.items() if system.name == names[kind]), None)


def fastest(cell: Mapping[System, Rounds], kind: str, *, built: bool = False) -> System | None:
    """Of the peers as their clients come, or of what is built before one."""
    peers = [
        each
        for each, rounds in cell.items()
        if rounds and each.kind == kind and each.name not in OURS and each.built is built
    ]
    return max(peers, key=lambda system: middle(cell[system]), default=None)


def tell(results: Results) -> None:
    """One JSON object a line, and tables for people."""
    for system, why in results.absent().items():
        nothing = {"callers": 0, "batch": 0, "messages_per_second": None}
        print(json.dumps({"system": system.name, "kind": system.kind, **nothing, "skipped": why}))
    for cell in results.cells:
        for kind in KINDS:
            _tell(results, cell, kind)


def _tell(results: Results, cell: Cell, kind: str) -> None:
    (callers, batch), found = cell, results.of(cell)
    mine, best, lines = ours(found, kind), fastest(found, kind), []
    for system, rounds in found.items():
        if system.kind != kind:
            continue
        result: dict[str, object] = {"system": system.name, "kind": kind, "callers": callers, "batch": batch}
        result["messages_per_second"] = round(middle(rounds)) if rounds else None
        if failures := results.failures(cell, system):
            result["failed"] = failures
        if rounds:
            result |= {
                "send_p50_ms": round(middle(rounds, "p50"), 3),
                "send_p99_ms": round(middle(rounds, "p99"), 3),
                "client_us": round(middle(rounds, "client_us"), 1),
                "server_us": round(middle(rounds, "server_us"), 1),
                "rounds": len(rounds),
            }
        if mine and rounds and rounds is not mine:
            result["pipeflow_times_this"] = round(times(mine, rounds), 2)
        if rounds and system.name in OURS and best is not None and cell == (AT, 1):
            result["target"] = TARGETS[kind]
            result["reached"] = times(rounds, found[best]) >= TARGETS[kind]
        print(json.dumps(result), flush=True)
        lines.append((system.name, *(result.get(name, "") for name in COLUMNS)))
    title = f"{KINDS[kind]}; {callers:,} callers, " + ("singly" if batch == 1 else f"batches of {batch}")
    table(title, ("", "messages/s", "p50 ms", "p99 ms", "client us", "server us", "rounds", "pipeflow x"), lines)


def write(results: Results, root: Path) -> None:
    """The page, its picture, and the README's part of it."""
    page = root / "docs" / "brokers.md"
    text = page.read_text()
    page.write_text(_between(text, _figures(results)))
    found = {cell: results.of(cell) for cell in results.cells}
    (root / "docs" / "brokers.svg").write_text(picture(found, KINDS))
    readme = root / "README.md"
    readme.write_text(_between(readme.read_text(), _short(results)))


def _between(text: str, figures: str) -> str:
    before, rest = text.split(BEGINS)
    _, after = rest.split(ENDS)
    return f"{before}{BEGINS}\n{figures}{ENDS}{after}"


def _figures(results: Results) -> str:
    found = {cell: results.of(cell) for cell in results.cells}
    lines = [f"{_when(results)}; {', '.join(_versions())}.", ""]
    for kind, words in KINDS.items():
        lines += [f"### {words}", "", *_rates(results, kind), "", *_costs(found.get((AT, 1), {}), kind), ""]
    lines += [*_verdicts(found), *_missing(results), ""]
    return "\n".join(lines)


def _when(results: Results) -> str:
    """How many rounds, where, and on which days when they are of several runs."""
    runs: dict[int, list[Round]] = {}
    for each in results.rounds:
        runs.setdefault(each.run, []).append(each)
    parts = []
    for rounds in runs.values():
        last = rounds[-1]
        of_it = f"{len(rounds)} of them " if len(runs) > 1 else ""
        parts.append(f"{of_it}{_day(last.when)}, {last.cores} cores, load {last.load:.1f}, {last.where}")
    count = len(results.rounds)
    return (
        f"{count} round{'s' if count > 1 else ''}"
        + (f" in {len(runs)} runs" if len(runs) > 1 else "")
        + ": "
        + "; ".join(parts)
    )


def _day(when: float) -> str:
    return time.strftime("%-d %B %Y", time.localtime(when))


def _versions() -> Sequence[str]:
    found = versions()
    for package in PEERS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def _rates(results: Results, kind: str) -> list[str]:
    cells = results.cells
    heads = [f"{callers:,} {'singly' if batch == 1 else f'by {batch}'}" for callers, batch in cells]
    lines = ["| messages a second (pipeflow's times as many) | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(cells) + 1) + "|")
    found = {cell: results.of(cell) for cell in cells}
    systems = [each for each in SYSTEMS if each.kind == kind and any(each in by for by in found.values())]
    for system in systems:
        texts = [_rate(by.get(system), ours(by, kind)) for by in found.values()]
        lines.append(f"| {system.name} | " + " | ".join(texts) + " |")
    return lines


def _rate(rounds: Rounds | None, mine: Rounds | None) -> str:
    if rounds is None:
        return ""
    if not rounds:
        return "failed"
    ratio = f" ({times(mine, rounds):.1f})" if mine and mine is not rounds and middle(rounds) else ""
    return f"{middle(rounds):,.0f}{ratio}"


def _costs(cell: Mapping[System, Rounds], kind: str) -> list[str]:
    lines = [
        f"| {AT} callers singly | syncs | send p50 / p99 ms | client, server: us of processor a message | rounds |",
        "|---|---|---|---|---|",
    ]
    for system, rounds in cell.items():
        if system.kind == kind and rounds:
            p50, p99, client, server = (middle(rounds, name) for name in ("p50", "p99", "client_us", "server_us"))
            lines.append(
                f"| {system.name} | {system.syncs} | {p50:.1f} / {p99:.1f} | {client:.0f}, {server:.0f}"
                f" | {len(rounds)} |"
            )
    return lines if len(lines) > 2 else []


def _missing(results: Results) -> list[str]:
    """What failed, and what was not there."""
    lines = []
    for cell in results.cells:
        for system, rounds in results.of(cell).items():
            for why in dict.fromkeys(results.failures(cell, system)):
                callers, batch = cell
                where = f"{callers:,} callers {'singly' if batch == 1 else f'by {batch}'}"
                lines.append(f"- {system.name}, {where}: {why}; {len(rounds)} rounds went well.")
    return [*lines, *(f"- {system.name}: skipped, {why}." for system, why in results.absent().items())]


def _verdicts(found: Mapping[Cell, Mapping[System, Rounds]]) -> list[str]:
    lines, single, many = [], found.get((AT, 1)), found.get((AT, 10))
    for kind, target in TARGETS.items():
        mine = ours(single, kind) if single else None
        best = fastest(single, kind) if single else None
        if single is None or not mine or best is None:
            continue
        ratio = times(mine, single[best])
        built = fastest(single, kind, built=True)
        beside = f", and {times(mine, single[built]):.1f} times {built.name}" if built is not None else ""
        lines.append(
            f"- {PIPEFLOW[kind]}, {AT} callers singly: {ratio:.1f} times {best.name}, the fastest of its kind (target"
            f" {target:g}: {'reached' if ratio >= target else 'missed'}){beside}."
        )
        compiled = ours(single, kind, COMPILED)
        if compiled:
            by_best = times(compiled, single[best])
            lines.append(
                f"- Compiled: {by_best:.1f} times {best.name} (target {target:g}:"
                f" {'reached' if by_best >= target else 'missed'}), and {times(compiled, mine):.2f} times as it comes."
            )
        by_ten = ours(many, kind) if many else None
        if by_ten:
            ratio = times(by_ten, mine)
            verdict = "reached" if ratio >= BATCH_TARGET else "missed"
            lines.append(
                f"- In batches of 10: {ratio:.1f} times its single calls (target {BATCH_TARGET:g}: {verdict})."
            )
    return lines


def _short(results: Results) -> str:
    lines = [f"Messages a second, and how many times as many pipeflow carries. {_when(results)}.", ""]
    single, many = results.of((AT, 1)), results.of((AT, 10))
    for kind, words in KINDS.items():
        ordered = sorted((each for each in single if each.kind == kind), key=lambda each: -middle(single[each]))
        if not ordered:
            continue
        lines += [f"| {words} | singly | times | by 10 | times |", "|---|---|---|---|---|"]
        for system in ordered:
            texts = []
            for cell in (single, many):
                mine, rounds = ours(cell, kind), cell.get(system)
                if rounds is None or mine is None:
                    texts += ["", ""]
                    continue
                texts.append(f"{middle(rounds):,.0f}" if rounds else "failed")
                compared = rounds is not mine and middle(rounds)
                texts.append(f"{times(mine, rounds):.1f}" if compared else "")
            lines.append(f"| {system.name} | " + " | ".join(texts) + " |")
        lines.append("")
    return "\n".join(lines)
