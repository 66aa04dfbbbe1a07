"""The files of a store as a kill would leave them."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_killed(path: Path, copy: Path) -> Path:
    """Copy the files of an open store to where another can be opened; `copy` itself.

    The commit log first: what goes from it into the tables meanwhile is then in both, and counts once.
    """
    for suffix in ("-log", "", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    return copy
