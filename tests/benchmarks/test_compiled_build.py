"""What is measured as compiled is what is here: an older build is noticed, by what it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeflow.state import queue as hot_path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def tree(place: Path, **modules: str) -> Path:
    (place / "state").mkdir(parents=True)
    for name, text in modules.items():
        (place / f"{name.replace('_', '/')}.py").write_text(text)
    return place


@pytest.mark.parametrize(
    ("sources", "differing"),
    [
        ({"app": "1", "state_queue": "2"}, None),
        ({"app": "1", "state_queue": "3"}, "pipeflow/state/queue.py"),
        ({"app": "1"}, "pipeflow/state/queue.py"),
        ({"app": "1", "state_queue": "2", "state_new": ""}, "pipeflow/state/new.py"),
    ],
    ids=["same", "changed", "removed", "added"],
)
def test_a_build_of_other_sources_is_told_by_the_module(
    tmp_path: Path, sources: dict[str, str], differing: str | None
) -> None:
    from _brokers import embedded

    made = tree(tmp_path / "made", app="1", state_queue="2")
    assert embedded.differing(made, tree(tmp_path / "pipeflow", **sources)) == differing


async def test_an_outdated_build_is_not_measured_and_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from _brokers.embedded import open_compiled
    from _brokers.peer import Absent

    made = tree(tmp_path / "pipeflow", state_queue="2")
    monkeypatch.setattr(hot_path, "__file__", str(made / "state" / "queue.cpython-311-x86_64-linux-gnu.so"))
    with pytest.raises(Absent, match=r"another pipeflow/__init__\.py .* scripts/compiled --build makes it anew"):
        await open_compiled("full", tmp_path)
