"""Lives in child processes that have everything imported already, so that thousands of them take minutes."""

from __future__ import annotations

import os
from collections.abc import Callable


def fork(work: Callable[[], None]) -> int:
    """Run something in a child of its own; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def outcome(child: int) -> int:
    """The exit code of a child, or minus the signal that ended it; returns when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
