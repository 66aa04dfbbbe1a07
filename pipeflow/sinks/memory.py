"""Objects in a dict: for tests, and for programs that want to look at what a stream made."""

from __future__ import annotations

from pipeflow.errors import ObjectRefused
from pipeflow.protocols import Object
from pipeflow.sinks.objects import check_name


class MemorySink:
    """Keeps every object by its name, in the order of their creation."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def write(self, obj: Object) -> None:
        """Replace the object whole; ObjectRefused when the name is somebody else's."""
        check_name(obj.name)
        if not obj.replace and obj.name in self.objects:
            raise ObjectRefused(f"memory sink: {obj.name} exists and is not this store's; empty the sink or rename it")
        self.objects[obj.name] = b"".join(obj.chunks)

    async def close(self) -> None:
        """Objects stay."""
