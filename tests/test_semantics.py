"""The page of rules and proofs is what its generator would write now, and the generator finds rules in tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

GENERATOR = Path(__file__).resolve().parent.parent / "docs" / "semantics.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = spec_from_file_location("semantics_page", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_rules_is_up_to_date() -> None:
    ran = subprocess.run([sys.executable, str(GENERATOR), "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("docstring", "name", "rules"),
    [
        ("A group in order: Q75.", "test_order", [("Q", 75)]),
        ("", "test_Q75_holds_for_S3", [("Q", 75), ("S", 3)]),
        ("Q69-Q71 and H22", "test_x", [("Q", 69), ("Q", 70), ("Q", 71), ("H", 22)]),
        ("A promise, P17, is no rule of this list", "test_seq75", []),
    ],
)
def test_rules_are_found_in_docstrings_and_names(
    generator: ModuleType, docstring: str, name: str, rules: list[tuple[str, int]]
) -> None:
    assert list(generator.rules_named(docstring, name)) == rules


def test_every_number_has_its_sentence(generator: ModuleType) -> None:
    for wing, rules in tomllib.loads(generator.RULES.read_text()).items():
        assert set(rules) - {"endpoint"} == {"title", "last", *map(str, range(1, rules["last"] + 1))}, wing


def test_no_rule_of_queues_topics_and_streams_lacks_a_test_but_those_of_the_endpoint(generator: ModuleType) -> None:
    proven = generator.proofs()
    for wing, rules in tomllib.loads(generator.RULES.read_text()).items():
        if wing in ("Q", "T", "S"):
            missing = [number for number in range(1, rules["last"] + 1) if (wing, number) not in proven]
            assert missing == rules["endpoint"], wing
