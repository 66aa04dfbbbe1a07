"""Errors come out of task groups as what they are."""

from __future__ import annotations

import pytest

from pipeflow.engine.scopes import only, task_scope
from pipeflow.errors import Indeterminate, Unavailable


async def fails(error: Exception) -> None:
    raise error


async def test_one_error_comes_out_as_itself_through_nested_scopes() -> None:
    async def body() -> None:
        async with task_scope(), task_scope() as inner:
            inner.start_soon(fails, KeyError("mine"))

    with pytest.raises(KeyError, match="mine"):
        await body()


async def test_a_store_that_failed_under_many_tasks_is_one_error_and_the_most_telling() -> None:
    async def body() -> None:
        async with task_scope() as group:
            group.start_soon(fails, Unavailable("closed"))
            group.start_soon(fails, Indeterminate("the commit failed"))

    with pytest.raises(Indeterminate, match="the commit failed"):
        await body()


def test_different_errors_stay_a_group() -> None:
    assert only(ExceptionGroup("two", [KeyError(), ValueError()])) is None
