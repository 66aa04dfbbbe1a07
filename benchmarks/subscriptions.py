"""What a publish costs with 1, 1,000, 10,000 and 100,000 subscriptions of which one matches, or none.

"tenants": one topic and a queue for each tenant, each with a filter such as {"tenant": ["t7"]} on attributes; "bodies":
the same on the body; "topics": a tenth as many queues, each subscribed to ten topics; "ranges": numbers between n and
n + 1; "bounds": numbers above n; "wildcards": "t7-*-x"; "anything": a third each of networks, of keys of their own that
have to be there, and of `anything-but` beside a key that no message has. One caller publishes 1 KiB and awaits its
commit at full durability; every other publish matches nobody. Each store lives in a process of its own, the sizes
interleaved. Beside the publish it is said what the subscriptions cost: to declare them (queues and topics included), to
open the store again, in memory, and to declare one more.

    python benchmarks/subscriptions.py [--rounds N] [--sizes N ...] [--forms F ...] [--stores S ...] [--quick]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from _queueing import url
from _rounds import alone, median, quantile, table

from pipeflow.filters import anything_but, cidr, exists, num, where, where_body, wildcard
from pipeflow.messages import Outgoing
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import FilterPolicy, QueueSpec, Subscription, TopicSpec, Topology

P50_MS = 5.0
"""Target: milliseconds of the median publish with 100,000 subscriptions."""
PADDING = "x" * 1024
TOPICS = 10

POLICIES: dict[str, Callable[[int], FilterPolicy]] = {
    "tenants": lambda n: where(tenant=f"t{n}"),
    "bodies": lambda n: where_body({"tenant": [f"t{n}"]}),
    "topics": lambda n: where(tenant=f"t{n}"),
    "ranges": lambda n: where(total=num(">=", n, "<", n + 1)),
    "bounds": lambda n: where(total=num(">", n)),
    "wildcards": lambda n: where(tenant=wildcard(f"t{n}-*-x")),
    "anything": lambda n: ANYTHING[n % 3](n),
}
ANYTHING: tuple[Callable[[int], FilterPolicy], ...] = (
    lambda n: where(kind=anything_but(f"k{n}"), vip=exists()),
    lambda n: where(source=cidr(f"{address(n)}/28")),
    lambda n: where(kind=exists(), **{f"only-{n}": exists()}),
)


def address(n: int) -> IPv4Address:
    """Of a network of sixteen addresses."""
    return IPv4Address("10.0.0.0") + 16 * n


def topology(form: str, numbers: range) -> Topology:
    if form == "topics":
        topics = tuple(f"topic{n}" for n in range(TOPICS))
        numbers = range(numbers.start, numbers.start + max(1, len(numbers) // TOPICS))
    else:
        topics = ("topic0",)
    policies = {n: POLICIES[form](n) for n in numbers}
    return Topology(
        topics=tuple(TopicSpec(topic) for topic in topics),
        queues=tuple(QueueSpec(f"q{n}") for n in numbers),
        subscriptions=tuple(Subscription(topic, "queue", f"q{n}", policies[n]) for n in numbers for topic in topics),
    )


def message(form: str, tenant: int) -> Outgoing:
    name = f"t{tenant}-y-x" if form == "wildcards" else f"t{tenant}"
    if form == "bodies":
        return Outgoing(json.dumps({"tenant": name, "text": PADDING}).encode())
    if form == "anything":
        return Outgoing(PADDING.encode(), {"kind": "placed", "source": str(address(tenant)), f"only-{tenant}": True})
    # Above how many bounds a number is, so many queues it goes to: here none or one.
    total = min(tenant, 0) + 0.5 if form == "bounds" else tenant
    return Outgoing(PADDING.encode(), {"tenant": name, "total": total, "kind": "placed"})


async def run(form: str, size: int, where: str, publishes: int) -> dict[str, float]:
    """One life of a store with that many subscriptions: each cost in milliseconds, and MiB."""
    empty = resident_mb()
    store = await open_store(where)
    wanted = topology(form, range(size))
    cpu, began = time.process_time(), time.perf_counter()
    await store.declare(wanted)
    figures = {"declare_ms": (time.perf_counter() - began) * 1e3, "declare_cpu_ms": (time.process_time() - cpu) * 1e3}
    await store.close()
    del store, wanted
    gc.collect()
    if where != "memory://":
        cpu, began = time.process_time(), time.perf_counter()
        store = await open_store(where)
        figures |= {"open_ms": (time.perf_counter() - began) * 1e3, "open_cpu_ms": (time.process_time() - cpu) * 1e3}
    else:
        store = await open_store(where)
        await store.declare(topology(form, range(size)))
    figures["memory_mb"] = resident_mb() - empty
    took, cpu = await publish(store, form, size, publishes)
    figures |= {"p50_ms": quantile(took, 0.50) * 1e3, "p99_ms": quantile(took, 0.99) * 1e3, "publish_cpu_us": cpu * 1e6}
    began = time.perf_counter()
    await store.declare(topology(form, range(size, size + 1)))
    figures["one_more_ms"] = (time.perf_counter() - began) * 1e3
    await store.close()
    return figures


async def publish(store: Store, form: str, size: int, publishes: int) -> tuple[list[float], float]:
    took = []
    for number in range(20):
        await store.publish("topic0", [message(form, -1 - number)])
    cpu = time.process_time()
    for number in range(publishes):
        tenant = number * 7919 % size if number % 2 else -1
        began = time.perf_counter()
        await store.publish("topic0", [message(form, tenant)])
        took.append(time.perf_counter() - began)
    return sorted(took), (time.process_time() - cpu) / publishes


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def life(form: str, size: int, store: str, publishes: int) -> dict[str, float]:
    """The figures of one process."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--child", form, str(size), url(store, Path(folder)), str(publishes)],
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def tell(form: str, store: str, lives: dict[int, list[dict[str, float]]]) -> None:
    rows = []
    for size, mine in lives.items():
        result: dict[str, object] = {"form": form, "store": store, "subscriptions": size, "rounds": len(mine)}
        result |= {name: round(median([each.get(name, 0.0) for each in mine]), 3) for name in mine[0]}
        least = lives[min(lives)]
        result["of_one"] = round(
            median([a["publish_cpu_us"] / b["publish_cpu_us"] for a, b in zip(mine, least, strict=True)]), 2
        )
        result["kb_each"] = round(median([each["memory_mb"] for each in mine]) * 1024 / size, 2)
        if size >= 100_000:
            result |= {"target_ms": P50_MS, "reached": result["p50_ms"] < P50_MS}  # type: ignore[operator]
        print(json.dumps(result), flush=True)
        keys = ("p50_ms", "p99_ms", "publish_cpu_us", "of_one", "declare_ms", "open_ms", "one_more_ms", "kb_each")
        rows.append((f"{size:,}", *(result.get(key, "") for key in keys)))
    columns = ("", "p50 ms", "p99 ms", "us CPU", "of one", "declare ms", "open ms", "one more ms", "KiB each")
    table(f"{form}, {store}", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="publishing among many subscriptions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 1_000, 10_000, 100_000])
    parser.add_argument("--forms", nargs="+", choices=list(POLICIES), default=["tenants"])
    parser.add_argument("--stores", nargs="+", choices=["full", "normal", "memory://"], default=["full"])
    parser.add_argument("--publishes", type=int, default=1_000)
    parser.add_argument("--quick", action="store_true", help="a second or two of everything: to test the benchmark")
    parser.add_argument("--child", nargs=4, metavar=("FORM", "SIZE", "URL", "PUBLISHES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        form, size, where, publishes = options.child
        print(json.dumps(alone(run(form, int(size), where, int(publishes)))))
        return
    if options.quick:
        options.rounds, options.sizes, options.publishes, options.forms = 1, [1, 200], 20, ["tenants"]
    for form in options.forms:
        for store in options.stores:
            lives: dict[int, list[dict[str, float]]] = {size: [] for size in options.sizes}
            for number in range(options.rounds):
                for size in options.sizes if number % 2 == 0 else options.sizes[::-1]:
                    lives[size].append(life(form, size, store, options.publishes))
                print(f"{form}, {store}: round {number + 1} of {options.rounds}", file=sys.stderr)
            tell(form, store, lives)


if __name__ == "__main__":
    main()
