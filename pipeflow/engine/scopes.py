"""Task groups that raise what their one failing task raised, instead of a group of one.

A caller that writes `except Unavailable` must not have to know how many scopes stand between it and the failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from anyio import create_task_group
from anyio.abc import TaskGroup

from pipeflow.errors import BrokerError, Indeterminate


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
    """The one error inside nested groups; None when there are several.

    A store that fails is one error, whichever tasks it reached: the one that says most stands for all.
    """
    errors = list(_leaves(several))
    if len(errors) == 1:
        return errors[0]
    if all(isinstance(error, BrokerError) for error in errors):
        return next((error for error in errors if isinstance(error, Indeterminate)), errors[0])
    return None


def _leaves(several: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in several.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
