"""The main job on real input: its figures, its files, and both after kills."""

from __future__ import annotations

import gzip
import importlib.util
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load(ROOT / "examples" / "flights" / "check.py")
kills = load(ROOT / "tests" / "faults" / "demo_kills.py")


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeflow", "demo", *arguments], cwd=ROOT, text=True, capture_output=True, check=False
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """One run from nothing: its directory and what it printed."""
    directory = tmp_path_factory.mktemp("flights") / "out"
    done = demo("--json", "--out", str(directory))
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout)


def test_the_figures_are_those_of_the_data(ran: tuple[Path, dict[str, object]]) -> None:
    directory, figures = ran[0], dict(ran[1])
    seconds, files = figures.pop("seconds"), figures.pop("files")
    assert figures == {**kills.FIGURES, "out": str(directory)}
    assert isinstance(seconds, float)
    assert files == len(list((directory / "lake").rglob("*.gz")))


def test_an_independent_reader_finds_every_flight_exactly_once(ran: tuple[Path, dict[str, object]]) -> None:
    """S33, S38, S49: every record in one object of its partition, each object whole."""
    assert check.compare(ran[0]) == {"source": 27_004, "files": 27_004, "missing": 0, "twice": 0, "foreign": 0}


def test_every_file_lies_under_its_carrier_and_day(ran: tuple[Path, dict[str, object]]) -> None:
    """S55: the partition is decided per record."""
    for path in (ran[0] / "lake").rglob("*.gz"):
        with gzip.open(path, "rt") as lines:
            places = {(row["carrier"], row["day"]) for row in map(json.loads, lines)}
        (carrier, day), *others = places
        assert not others
        assert f"carrier={carrier}/day={day:02}/" in path.as_posix()


def test_the_tallies_in_the_files_add_up_to_the_month(ran: tuple[Path, dict[str, object]]) -> None:
    total: Counter[str] = Counter()
    for path in (ran[0] / "counts").rglob("*.gz"):
        with gzip.open(path, "rt") as lines:
            for tally in map(json.loads, lines):
                total[tally["carrier"]] += tally["flights"]
    assert total == Counter(row[9] for row in check.rows_of_the_source())


def test_resuming_what_is_complete_changes_nothing_and_says_the_same(ran: tuple[Path, dict[str, object]]) -> None:
    directory, figures = ran
    before = sorted((path, path.stat().st_mtime_ns) for path in (directory / "lake").rglob("*.gz"))
    done = demo("--json", "--resume", "--out", str(directory))
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert {**again, "seconds": 0} == {**figures, "seconds": 0, "files": len(before)}
    assert sorted((path, path.stat().st_mtime_ns) for path in (directory / "lake").rglob("*.gz")) == before


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = demo("--out", str(tmp_path))
    assert done.returncode == 4
    assert f"{tmp_path}: not empty (it holds mine)" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_without_a_store_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = demo("--resume", "--out", str(tmp_path))
    assert done.returncode == 4
    assert "holds no flights.db to resume" in done.stderr


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = demo("--out", str(tmp_path / "file" / "below"))
    assert done.returncode == 4
    assert "name a directory that can be written" in done.stderr


def test_three_kills_leave_every_flight_exactly_once(tmp_path: Path) -> None:
    """S86: a crash loses nothing that was journaled; the source goes on where its last commit ended."""
    result = kills.campaign(3, seed=3, directory=tmp_path)
    assert not result["violations"], result
    assert result["kills"] == 3


def test_the_independent_reader_notices_missing_and_double_rows(tmp_path: Path) -> None:
    rows = [dict(zip(header(), row, strict=True)) for row in check.rows_of_the_source()]
    lake = tmp_path / "lake"
    lake.mkdir()
    with gzip.open(lake / "part.gz", "wt") as out:
        for row in [*rows[2:], rows[5], {**rows[6], "flight": "0"}]:
            out.write(json.dumps(row) + "\n")
    assert check.compare(tmp_path) == {"source": 27_004, "files": 27_004, "missing": 2, "twice": 1, "foreign": 1}


def header() -> list[str]:
    with gzip.open(check.SOURCE, "rt") as text:
        return text.readline().strip().split(",")


@pytest.mark.timeout(600)  # a month of flights, twice begun: 10 s on an idle machine
def test_ctrl_c_says_how_to_go_on_and_going_on_completes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeflow", "demo", "--json", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE) as running:
        log = out / "flights.db-wal"
        while not log.exists() or log.stat().st_size < 1 << 20:
            # Looked at now and then: a loop that never waits takes half of a small machine from the demo.
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(timeout=0.02)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=300)
    assert running.returncode == 130
    assert f"pipeflow demo --out {out} --resume" in told
    assert "Traceback" not in told
    done = demo("--json", "--resume", "--out", str(out))
    assert json.loads(done.stdout)["records_in_files"] == 27_004
