"""Task groups that raise what their one failing task raised, instead of a group of one.

A caller that writes `except Unavailable` must not have to know how many scopes stand between it and the failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import create_task_group
from anyio.abc import TaskGroup


@asynccontextmanager
async def task_scope() -> AsyncIterator[TaskGroup]:
    """A task group; an error of its body or of one task comes out as itself."""
    try:
        async with create_task_group() as group:
            yield group
    except BaseExceptionGroup as several:
        alone = only(several)
        if alone is None:
            raise
        raise alone from alone.__cause__


def only(several: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one error inside nested groups; None when there are several."""
    if len(several.exceptions) != 1:
        return None
    (inner,) = several.exceptions
    return only(inner) if isinstance(inner, BaseExceptionGroup) else inner
