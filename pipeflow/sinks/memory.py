"""Objects in a dict: for tests, and for programs that want to look at what a stream made."""

from __future__ import annotations

from pipeflow.errors import ObjectMissing, ObjectRefused
from pipeflow.names import check_name
from pipeflow.protocols import Object


class MemorySink:
    """Keeps every object by its name, in the order of their creation."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def __str__(self) -> str:
        return "memory sink"

    async def write(self, obj: Object) -> None:
        """Replace the object whole; ObjectRefused when the name is somebody else's."""
        check_name(obj.name)
        if not obj.replace and obj.name in self.objects:
            raise ObjectRefused(f"memory sink: {obj.name} exists and is not this store's; empty the sink or rename it")
        self.objects[obj.name] = b"".join(obj.chunks)

    async def read(self, name: str) -> bytes:
        """The object's bytes; ObjectMissing when there is none."""
        check_name(name)
        if name not in self.objects:
            raise ObjectMissing(f"memory sink: no object {name} lies here")
        return self.objects[name]

    async def delete(self, name: str) -> None:
        """Forget the object, if there is one."""
        check_name(name)
        self.objects.pop(name, None)

    async def list(self, prefix: str = "") -> list[str]:
        """Names that begin with `prefix`, sorted."""
        return sorted(name for name in self.objects if name.startswith(prefix))

    async def close(self) -> None:
        """Objects stay."""
