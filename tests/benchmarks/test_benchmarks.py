"""Every benchmark runs from end to end in its quick form, and says what its readers look for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {
    "backlog_scale": {"waiting", "us_a_message", "start_ms", "peak_mb"},
    "batching": {"sink", "way", "records_per_second"},
    "brokers": {"system", "kind", "callers", "batch", "messages_per_second"},
    "compression": {"records", "compression", "level", "mib_per_second", "ratio"},
    "durable_intake": {"producers", "way", "records_per_second"},
    "handlers": {"case", "messages_per_second"},
    "idle": {"case", "queues", "cpu_ms", "wakeups"},
    "large_bodies": {"size_mib", "send_mib", "receive_mib", "waiting_mib"},
    "latency": {"send_p99_ms", "slowest_hundredth_ms", "cause"},
    "parquet": {"way", "records_per_second"},
    "partitioning": {"way", "records_per_second"},
    "partitions": {"key", "way", "records_per_second"},
    "peers": {"codec", "way", "records_per_second"},
    "publish": {"form", "queues", "store"},
    "queues": {"form", "callers", "batch", "store", "messages_per_second", "send_p99_ms"},
    "receive_latency": {"store", "way", "p50_ms", "p99_ms"},
    "searching": {"way", "examined", "added_mib", "turn_ms", "page_ms"},
    "startup": {"case", "ms"},
    "subscriptions": {"form", "subscriptions", "p50_ms", "declare_ms", "open_ms", "kb_each"},
}


@pytest.mark.parametrize("name", KEYS)
def test_a_benchmark_runs_in_seconds_with_quick_and_prints_one_object_a_result(name: str, tmp_path: Path) -> None:
    results = ran(tmp_path / "results.jsonl", "--quick", name)
    assert results[0]["benchmark"] == "machine"
    assert len(results) > 1
    assert all(result["benchmark"] == name and result.keys() >= KEYS[name] for result in results[1:])


def test_the_runner_knows_every_benchmark_that_is_there() -> None:
    named = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--list"], check=True, capture_output=True, text=True
    )
    assert named.stdout.split() == sorted(KEYS)


def ran(out: Path, *arguments: str) -> list[dict[str, object]]:
    process = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]
