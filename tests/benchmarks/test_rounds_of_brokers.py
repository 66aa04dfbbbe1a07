"""Rounds that a run of `brokers.py` left in a file count with those of the next; what failed is shown as failed."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FULL, PEER, GONE = "pipeflow full", "Redis streams, always", "PostgreSQL"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def add(file: Path, *, mine: float, its: float | None) -> None:
    """A run of one round: what pipeflow and a peer carried, or that the peer failed."""
    from _brokers.results import Measured, Results
    from _brokers.systems import SYSTEMS

    def figures(rate: float) -> dict[str, float]:
        return {"per_second": rate, "p50": 1.0, "p99": 2.0, "client_us": 3.0, "server_us": 4.0}

    peer = Measured(64, 1, PEER, failed="its server went") if its is None else Measured(64, 1, PEER, figures(its))
    absent = {system: "not here" for system in SYSTEMS if system.name == GONE}
    Results(file).add([Measured(64, 1, FULL, figures(mine)), peer], absent, behind=10, seconds=0.1)


def test_rounds_of_two_runs_are_compared_each_with_its_own(tmp_path: Path) -> None:
    from _brokers.report import times
    from _brokers.results import Results

    file = tmp_path / "rounds"
    add(file, mine=100.0, its=50.0)
    add(file, mine=900.0, its=None)
    add(file, mine=300.0, its=75.0)
    results = Results(file)
    by_name = {system.name: rounds for system, rounds in results.of((64, 1)).items()}
    assert [len(results.rounds), results.run, len(by_name[PEER])] == [3, 4, 2]
    assert times(by_name[FULL], by_name[PEER]) == 3.0


def test_the_page_says_what_failed_and_what_was_not_there(tmp_path: Path) -> None:
    from _brokers.report import BEGINS, ENDS, write
    from _brokers.results import Results

    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "brokers.md"
    for text in (page, tmp_path / "README.md"):
        text.write_text(f"before\n{BEGINS}\nold\n{ENDS}\nafter\n")
    file = tmp_path / "rounds"
    add(file, mine=100.0, its=None)
    add(file, mine=100.0, its=None)
    write(Results(file), tmp_path)
    said = page.read_text()
    assert "2 rounds in 2 runs: 1 of them" in said
    assert f"| {PEER} | failed |" in said
    assert f"- {PEER}, 64 callers singly: its server went; 0 rounds went well." in said
    assert f"- {GONE}: skipped, not here." in said
    assert f"| {PEER} | failed |" in (tmp_path / "README.md").read_text()


def test_a_system_rests_where_it_was_far_too_slow_at_first_or_failed_twice(tmp_path: Path) -> None:
    from _brokers.results import Results
    from _brokers.systems import SYSTEMS
    from brokers import rests

    (peer,) = (system for system in SYSTEMS if system.name == PEER)
    slow, failing = tmp_path / "slow", tmp_path / "failing"
    add(slow, mine=1_000.0, its=100.0)
    assert not rests(Results(slow), (64, 1), peer)
    add(slow, mine=1_000.0, its=10.0)
    assert not rests(Results(slow), (64, 1), peer)
    slow.unlink()
    add(slow, mine=1_000.0, its=10.0)
    assert rests(Results(slow), (64, 1), peer)
    add(failing, mine=100.0, its=None)
    assert not rests(Results(failing), (64, 1), peer)
    add(failing, mine=100.0, its=None)
    assert rests(Results(failing), (64, 1), peer)


def test_the_compiled_build_is_judged_by_itself_and_is_no_peer_of_the_other(tmp_path: Path) -> None:
    from _brokers.report import _verdicts, fastest
    from _brokers.results import Measured, Results
    from _brokers.systems import COMPILED
    from _brokers.systems import FULL as SYNCED

    results = Results(None)
    rates = {FULL: 100.0, COMPILED[SYNCED]: 130.0, PEER: 25.0}
    measured = [Measured(64, 1, name, {"per_second": rate}) for name, rate in rates.items()]
    results.add(measured, {}, behind=10, seconds=0.1)
    found = results.of((64, 1))
    best = fastest(found, SYNCED)
    assert best is not None
    assert best.name == PEER
    assert _verdicts({(64, 1): found}) == [
        f"- {FULL}, 64 callers singly: 4.0 times {PEER}, the fastest of its kind (target 5: missed).",
        f"- Compiled: 5.2 times {PEER} (target 5: reached), and 1.30 times as it comes.",
    ]
