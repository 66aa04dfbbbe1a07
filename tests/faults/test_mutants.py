"""The lists of mutants quote lines that are there, and a mutant that a test notices is caught."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mutants
from mutant import Mutant

EVERY = [mutant for each in mutants.LISTS.values() for mutant in each]


@pytest.mark.parametrize("mutant", EVERY, ids=lambda mutant: mutant.name)
def test_a_mutant_breaks_a_line_that_is_there_and_leaves_a_program(mutant: Mutant) -> None:
    mutants.check(mutant)
    whole = (mutants.ROOT / mutant.path).read_text()
    ast.parse(whole.replace(mutant.line, mutant.broken, 1))


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in EVERY}) == len(EVERY)
