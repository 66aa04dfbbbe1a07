"""From the intake to the buffers: each record becomes what the stream's transform and partition make of it.

A record that fails goes to the error output as it came, beside the good ones. Intake out and results in are one commit,
so a record is never derived twice once that is done.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from pipeflow.clock import Clock, Signal
from pipeflow.engine.convert import MESSAGE_LIMIT
from pipeflow.engine.outcome import told_to_stop
from pipeflow.engine.plan import DeliveryPlan
from pipeflow.messages import Outgoing, Position, Records
from pipeflow.protocols import Store
from pipeflow.sinks.objects import ERRORS

BATCH = 1_000
"""Records of the intake that one commit moves on, about: whole blocks."""

TURN = 64
"""Records after which the event loop gets its turn."""


class Misplaced(Exception):
    """`partition_by` did not answer with a partition for this record."""


class Deadly(Exception):
    """A record that took the process with it."""


class _ErrorRecord(Struct, frozen=True):
    """One failed record as it lies under `errors/` (Firehose: S60)."""

    attemptsMade: int
    arrivalTimestamp: int
    errorCode: str
    errorMessage: str
    attemptEndingTimestamp: int
    rawData: str


class Deriving:
    """The task of one stream that empties its intake."""

    def __init__(self, plan: DeliveryPlan, store: Store, clock: Clock) -> None:
        self.arrived = Signal()
        """Fired when there may be something in the intake."""
        self._plan = plan
        self._name = plan.spec.name
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled; what was not derived then waits in the intake."""
        while True:
            blocks = await self._store.intake(self._name, Position(0), BATCH)
            if not blocks:
                await self._clock.wait(self.arrived)
                continue
            outputs = await self._outputs(blocks)
            upto = blocks[-1].first + len(blocks[-1].bodies) - 1
            await self._store.derive(self._name, Position(upto), outputs)

    async def _outputs(self, blocks: Sequence[Records]) -> list[Outgoing]:
        derive = self._plan.derive
        assert derive is not None
        outputs: list[Outgoing] = []
        turn = TURN
        for block in blocks:
            for body in block.bodies:
                try:
                    if block.suspect:
                        raise Deadly("the process died each time this record was transformed; it is not tried again")
                    result = derive(body)
                    output = result if result is None or isinstance(result, Outgoing) else await result
                    if output is not None and len(output.body) > self._plan.spec.max_record:
                        raise ValueError(
                            f"{len(output.body)} bytes came of it; max_record={self._plan.spec.max_record}"
                        )
                except BaseException as error:
                    if told_to_stop(error):
                        raise
                    output = self._failed(body, block.at, error)
                if output is not None:
                    outputs.append(output)
                turn -= 1
                if not turn:
                    turn = TURN
                    await asyncio.sleep(0)
        return outputs

    def _failed(self, body: bytes, arrived_at: float, error: BaseException) -> Outgoing:
        """The record as it came, beside the good ones, with what was wrong (Firehose: S28, S60, S63)."""
        if isinstance(error, Misplaced):
            code = "DynamicPartitioning.MetadataExtractionFailed"
        else:
            code = f"Transform.{type(error).__name__}"
        record = _ErrorRecord(
            attemptsMade=1,
            arrivalTimestamp=round(arrived_at * 1000),
            errorCode=code,
            errorMessage=str(error)[:MESSAGE_LIMIT],
            attemptEndingTimestamp=round(self._clock.now() * 1000),
            rawData=b64encode(body).decode(),
        )
        return Outgoing(msgspec.json.encode(record), partition=ERRORS)
