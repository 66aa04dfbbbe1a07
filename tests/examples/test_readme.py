"""The example at the top of the README is a program, and does what the text under it says."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

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


def test_every_script_and_page_that_the_readme_names_is_there() -> None:
    text = README.read_text()
    named = set(re.findall(r"\((\w[\w./-]*\.md)\)", text)) | set(re.findall(r"\bscripts/\w+", text))
    missing = [name for name in sorted(named) if not (README.parent / name).exists()]
    assert not missing
