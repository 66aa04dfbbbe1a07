"""The example at the top of the README is a program, and does what the text under it says."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from click.testing import CliRunner

from pipeflow.cli.main import cli
from pipeflow.testing import harness

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    path = tmp_path / "readme_shop.py"
    path.write_text(block)
    spec = spec_from_file_location("readme_shop", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "readme_shop", module)
    spec.loader.exec_module(module)
    return module


async def test_the_example_charges_placed_orders_and_buries_what_it_rejects(shop: ModuleType) -> None:
    async with harness(shop.app) as h:
        await shop.orders.publish(shop.Order("1", 5), kind="placed")
        await shop.orders.publish(shop.Order("2", 5), kind="draft")
        await shop.orders.publish(shop.Order("3", 0), kind="placed")
        await h.settle()
        assert h.published(shop.receipts) == [shop.Order("1", 5)]
        assert [order.id for order in h.dead(shop.billing)] == ["3"]
        await h.advance(60)
        (written,) = h.objects(shop.lake).values()
        assert written.count(b"\n") == 3
        assert h.queued(shop.billing) == []


def test_every_script_page_and_test_that_the_readme_names_is_there() -> None:
    text = README.read_text()
    patterns = (r"\((\w[\w./-]*\.md)\)", r"\bscripts/\w+", r"`(tests/[\w./]+)`")
    named = {name for pattern in patterns for name in re.findall(pattern, text)}
    named |= {f"tests/faults/{name}_kills.py" for name in re.findall(r"scripts/faults (\w+)", text)}
    assert "tests/faults/queue_kills.py" in named
    missing = [name for name in sorted(named) if not (README.parent / name).exists()]
    assert not missing


def test_the_everyday_commands_run_on_the_store_of_the_example(
    shop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(fail_once, shop)
    (tmp_path / "event.json").write_text('{"kind":"placed"}')
    text = README.read_text().partition("## Everyday commands")[2].partition("##")[0]
    lines = re.findall(r"^ {4}pipeflow (.*?)(?: {3,}.*)?$", text, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        for command in line.split(" | ") if line.startswith("queues |") else [line]:
            result = CliRunner().invoke(cli, shlex.split(command), env={"PIPEFLOW_BROKER": "sqlite:///shop.db"})
            assert result.exit_code == 0, f"{command}: {result.output}"


async def fail_once(shop: ModuleType) -> None:
    async with shop.app.running() as runtime:
        await shop.orders.publish(shop.Order("3", 0), kind="placed")
        await runtime.until_idle()
