"""A year of flights into two kinds of files: here its first month, the one that the package ships."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
YEAR = ROOT / "examples" / "year"
JANUARY = ROOT / "pipeflow" / "cli" / "flights" / "flights-2013-01.csv.gz"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"year_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load(YEAR / "check.py")
draw = load(YEAR / "draw.py")


def start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(YEAR / "year.py"), str(directory)],
        env={**os.environ, "FLIGHTS": str(JANUARY), "PYTHONPATH": f"{ROOT}{os.pathsep}{YEAR}"},
        text=True,
        stdout=subprocess.PIPE,
    )


@pytest.fixture(autouse=True)
def january(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLIGHTS", str(JANUARY))


def test_every_partition_of_both_kinds_of_files_counts_what_the_source_counts(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.wait() == 0
    figures = check.compare(tmp_path)
    assert check.clean(figures), figures
    assert (figures["source"], figures["lines"], figures["table"], figures["partitions"]) == (
        27_004,
        27_004,
        27_004,
        16,
    )
    series = json.loads((tmp_path / "throughput.json").read_text())["records"]
    assert {name: sum(points) for name, points in series.items()} == dict.fromkeys(series, 27_004)


def test_p17_after_kills_every_row_is_in_one_file_of_each_kind(tmp_path: Path) -> None:
    for after in (0.5, 0.9, 0.7):
        with start(tmp_path) as run:
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(after)
            run.send_signal(signal.SIGKILL)
    with start(tmp_path) as run:
        assert run.wait() == 0
    figures = check.compare(tmp_path)
    assert check.clean(figures), figures
    assert figures["source"] == 27_004


def test_a_row_in_the_wrong_folder_a_missing_one_and_a_double_are_found(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.wait() == 0
    first, second = sorted((tmp_path / "lines").rglob("*.gz"))[:2]
    wrong = tmp_path / "lines" / "carrier=XX" / "month=01"
    wrong.mkdir(parents=True)
    first.rename(wrong / first.name)
    (second.parent / f"again-{second.name}").write_bytes(second.read_bytes())
    figures = check.compare(tmp_path)
    assert not check.clean(figures)
    assert figures["lines_missing"] > 0
    assert figures["lines_too_many"] > figures["lines_missing"]
    assert figures["table_missing"] == figures["table_too_many"] == 0


def test_a_rate_is_the_mean_of_the_last_second() -> None:
    assert draw.rates([10, 0, 20], 0.5) == [20.0, 10.0, 20.0]
