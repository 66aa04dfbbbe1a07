"""An egress that answers from a list, for the sink of HTTP endpoints."""

from __future__ import annotations

import json

from pipeflow_connectors.egress import Answer, EgressError, Kind


class Scripted:
    """An egress that answers from a list, and remembers what it was asked."""

    def __init__(self, *answers: Answer | Kind) -> None:
        self.answers = list(answers)
        self.headers: list[dict[str, str]] = []
        self.contents: list[bytes] = []

    async def post(self, url: str, *, headers: dict[str, str], content: bytes, limit: int, timeout: float) -> Answer:
        self.headers.append(headers)
        self.contents.append(content)
        given = self.answers.pop(0) if self.answers else reply(headers["X-Amz-Firehose-Request-Id"])
        if isinstance(given, str):
            raise EgressError(given, f"https://hooks.example.org: {given}")
        return given

    async def close(self) -> None: ...


def reply(id: str, status: int = 200, headers: dict[str, str] | None = None, **said: object) -> Answer:
    body = json.dumps({"requestId": id, "timestamp": 1, **said}).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return Answer(status, {name: value for name, value in told.items() if value}, body)
