"""What stands in for an endpoint in tests: it keeps what it was posted, and answers as it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from pipeflow.webhooks import Notice, Verdict


class MemoryPoster:
    """An endpoint in memory. `answer` decides about each request; it takes everything unless told otherwise."""

    def __init__(self, answer: Callable[[Notice], Verdict] | None = None) -> None:
        self.notices: list[Notice] = []
        """Every request, in order, repeats included."""
        self.answer = answer or (lambda notice: Verdict(True))

    @property
    def posted(self) -> list[Notice]:
        """The notifications alone."""
        return [notice for notice in self.notices if notice.kind == "Notification"]

    @property
    def token(self) -> str:
        """The token of the last message that had one."""
        asked = [notice for notice in self.notices if notice.kind != "Notification"]
        return msgspec.json.decode(asked[-1].body, type=dict[str, str])["Token"]

    def prepare(self) -> None:
        return

    def sign(self, document: Mapping[str, object]) -> dict[str, str]:
        return {}

    async def post(self, notice: Notice) -> Verdict:
        self.notices.append(notice)
        return self.answer(notice)

    async def close(self) -> None:
        return
