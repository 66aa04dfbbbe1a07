"""A stream: records go in one by one or many at once, objects come out in its sink.

On a durable stream `put` returns when the record is on disk. With durability="memory" it returns when the record is in
the buffer, without ever giving up the processor on the way: that is the fast path, and the open buffer is what a crash
may cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from msgspec.structs import replace

from pipeflow.binding import Binding
from pipeflow.clock import step_aside
from pipeflow.codecs import Codec, codec_for, type_name
from pipeflow.engine.failures import Misplaced
from pipeflow.engine.lambdas import MOST_BYTES, MOST_RECORDS
from pipeflow.engine.plan import BatchTransform, DeliveryPlan, Derive
from pipeflow.engine.runtime import Runtime
from pipeflow.errors import ConfigurationError, FeatureMissing, Overloaded, RefusedError, WiringError
from pipeflow.files import PAGE, CompactReport, CompactRequest, FileFacts, FileQuery
from pipeflow.messages import At, AttributeValue, Outgoing, Position, Refused
from pipeflow.partitioning import PartitionBy, awaits_keys, declared_keys, partitioning
from pipeflow.protocols import Lane, StreamStats
from pipeflow.sinks.layout import Layout
from pipeflow.specs import FilterPolicy, StreamSpec
from pipeflow.transforms import (
    LambdaHandler,
    batchwise,
    called,
    check_options,
    check_shape,
    lambda_batchwise,
    no_derive,
    one_by_one,
    wanted_of,
)

if TYPE_CHECKING:
    from pipeflow.engine.replay import Replayed
    from pipeflow.queue import Queue
    from pipeflow.topic import Topic

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

TURN = 256 << 10
"""Bytes after which a producer that never waits lets the others run."""

SMALL = 256
"""Bytes up to which copying a record is cheaper than asking for its type and length."""

SLICE = 4_096
"""Records that `put_many` hands over at once."""


class Stream(Generic[T]):
    """One delivery stream of an app. `put`, `put_many` and `put_nowait` fill it, `flush` delivers what is in it."""

    def __init__(
        self,
        spec: StreamSpec,
        type: type[T],
        *,
        partition_by: PartitionBy[T] | None = None,
        codec: str = "json",
        place: str = "",
    ) -> None:
        self.type = type
        self.partition_by = partition_by
        self.binding = Binding(f"stream {spec.name}", place)
        # Keys that a function for Firehose gives: it is declared after this, and looked for when the app opens.
        where = f"{place}: stream {spec.name}"
        keys = declared_keys(partition_by, where)
        self._awaits_keys = not callable(partition_by) and awaits_keys(spec.prefix, keys)
        partitioned = partition_by is not None or self._awaits_keys
        self._spec = replace(spec, partitioned=partitioned, partition_keys=keys)
        self._layout = Layout(self._spec)
        self.codec: Codec[T] = codec_for(type, codec)
        self._partitioning = partitioning(partition_by, keys, self._layout, self.codec.name, where)
        if spec.columns and self.codec.name != "json" and type is not bytes:
            raise ConfigurationError(
                f"{place}: stream {spec.name}: format={spec.format!r} is made of JSON, not {self.codec.name}"
            )
        self._encode = self.codec.encode
        self._verbatim: object = bytes if type is bytes else None
        """The type of values that are records as they are."""
        self._gap = len(spec.separator)
        self._transform: Callable[..., object] | None = None
        self._derive: Derive | None = None
        self._batch: BatchTransform | None = None
        self._open: list[Runtime] = []
        self._lane: Lane | None = None
        """The lane of the one open runtime; None: the long way, as where the store is in another process."""
        self._durable = True
        """Whether what went through it is to be waited for."""
        self._fast: Lane | None = None
        """The lane where an encoded payload is the record, in memory: not partitioned, not transformed."""
        self._turn = TURN

    @property
    def name(self) -> str:
        """The stream's name, with its router's prefix."""
        return self._spec.name

    @property
    def spec(self) -> StreamSpec:
        """Everything a store needs to know."""
        return replace(self._spec, transformed=self._derived)

    @property
    def _derived(self) -> bool:
        """Whether what is delivered is not what was put."""
        return self._transform is not None or self._spec.unpacks

    def __repr__(self) -> str:
        return f"Stream({self.name!r})"

    # Putting

    async def put(self, value: T, /) -> None:
        """Accept one record: durable when it returns, or buffered with durability="memory", where it never suspends
        but to let others run. Waits while the stream is at its bound. RefusedError: too large, or no partition."""
        lane = self._fast
        if lane is None:
            await self._put([value])
            return
        # 19 ns a record less than `isinstance` and a bound `append` (benchmarks/batching.py): both are calls in 3.11.
        body: Any = value if type(value) is self._verbatim else self._encode(value)
        left = lane.left - len(body) - self._gap
        if left > 0:
            lane.left = left
            lane.bodies.append(body)
        else:
            await self._add([body])

    async def put_many(self, values: Iterable[T], /) -> None:
        """Accept records in order, in as few commits as possible. RefusedError names the first that was refused; the
        others are accepted."""
        values = values if isinstance(values, list) else list(values)
        if len(values) <= SLICE:
            await self._put(values)
            return
        for start in range(0, len(values), SLICE):
            await self._put(values[start : start + SLICE])

    def put_nowait(self, value: T, /) -> None:
        """Accept one record without waiting: not yet acknowledged, see `synced`. Overloaded at the bound.

        FeatureMissing where another process owns the store.
        """
        lane = self._fast
        if lane is not None:
            body: Any = value if type(value) is self._verbatim else self._encode(value)
            left = lane.left - len(body) - self._gap
            if left > 0:
                lane.left = left
                lane.bodies.append(body)
            else:
                _add_or_count(lane, body)
            return
        lane = self.binding.runtime.store.lane(self.name)
        if lane is None:
            raise FeatureMissing(f"stream {self.name}: put_nowait needs the store in this process; use `await put`")
        body = self._encode(value)
        _add_or_count(lane, body, self._partition(value, body))

    async def synced(self) -> None:
        """Return when everything accepted before the call is on disk."""
        await self.binding.runtime.store.append(self.name, ())

    async def flush(self) -> None:
        """Deliver what is buffered now; return when it lies in the sink. ObjectRefused when the sink refuses it,
        ConfigurationError when the process that owns the store does not deliver this stream."""
        await self.binding.runtime.store.flush(self.name)

    async def files(
        self,
        first: int = 0,
        last: int | None = None,
        *,
        since: float | None = None,
        until: float | None = None,
        partition: str | None = None,
        retired: bool = False,
        after: tuple[int, str] | None = None,
        limit: int = PAGE,
    ) -> list[FileFacts]:
        """Which delivered files hold the records from sequence `first` to `last`, in order, at most `limit`.

        `since` and `until` (epoch seconds): files that may hold records which arrived between them. `partition`: as in
        the files' names. `retired`: those too whose place a merged file has taken. The next page: `after` the `cursor`
        of the last file.
        """
        query = FileQuery(first, last, since, until, partition, retired, after, limit)
        return await self.binding.runtime.store.files(self.name, query)

    async def replay(
        self,
        *,
        to: Topic[Any] | Queue[Any] | Stream[Any],
        first: int = 0,
        last: int | None = None,
        since: float | None = None,
        until: float | None = None,
        partition: str | None = None,
        where: FilterPolicy | None = None,
        errors: bool = False,
        attributes: Mapping[str, AttributeValue] | None = None,
        group: str | None = None,
        rate: float | None = None,
        name: str = "",
        again: bool = False,
        skip_damaged: bool = False,
        dry_run: bool = False,
    ) -> Replayed:
        """Read delivered files back and publish their records again, each once, with the attribute `replayed`.

        Which: sequences from `first` to `last`; files that may hold records which arrived from `since` to `until`
        (epoch seconds); a `partition`; `where`: bodies that this filter policy takes; `errors`: the failed records
        instead. Called again after it was stopped, it goes on where it was; done, it does nothing, unless `again`, or
        under another `name`. `rate`: records a second.

        ObjectDamaged, ObjectMissing: a file is not what it was, and `skip_damaged` is not set. RefusedError: `to` does
        not take a record.
        """
        from pipeflow.engine.replay import Replay, Target, replayed  # with its decoders, for programs that replay

        runtime = self.binding.runtime
        kind = cast(Literal["topic", "queue", "stream"], to.binding.noun.partition(" ")[0])
        asked = Replay(
            self.name,
            Target(kind, to.name),
            first=first,
            last=last,
            since=since,
            until=until,
            partition=partition,
            where=where,
            errors=errors,
            attributes=dict(attributes or {}),
            group=group,
            name=name,
            again=again,
            rate=rate,
            skip_damaged=skip_damaged,
            dry_run=dry_run,
        )
        sink = next((each.sink for each in runtime.deliveries if each.name == self.name), None)
        return await replayed(asked, runtime.store, runtime.clock, sink)

    async def stats(self) -> StreamStats:
        """What the stream took in, holds and delivered, ever: exact at commit points, durable where the stream is."""
        stats = await self.binding.runtime.store.stats()
        return next(stream for stream in stats.streams if stream.name == self.name)

    async def compact(
        self,
        *,
        target: int | None = None,
        older_than: float = 0.0,
        keep: float = 3_600.0,
        dry_run: bool = False,
    ) -> CompactReport:
        """Merge small delivered files into ones of up to `target` bytes (`target_bytes` if not given).

        Only files delivered `older_than` seconds ago. What was merged away is deleted `keep` seconds later, at the next
        look. `dry_run` plans only. The process that delivers the stream does it. ConfigurationError: no manifest=True,
        no target, or nothing delivers the stream. SinkUnavailable: what was begun is ended by the next look.
        """
        request = CompactRequest(target, older_than, keep, dry_run)
        return await self.binding.runtime.store.compact(self.name, request)

    async def _put(self, values: list[T]) -> None:
        lane = self._fast
        if lane is None:
            await self._place(values)
            return
        bodies, size = self._weighed(values)
        left = lane.left - size - self._gap * len(bodies)
        if left > 0:
            lane.left = left
            lane.bodies += bodies
        elif bodies:
            await self._add(bodies)

    async def _place(self, values: list[T]) -> None:
        bodies = self._encoded(values)
        partitions = self._partitioning.partitions
        if not bodies:
            return
        if partitions is None or self._derived:
            await self._add(bodies)
        else:
            try:
                found = partitions(values, bodies)
            except RefusedError:
                await self._place_singly(values, bodies)
            else:
                await self._add(bodies, found)

    async def _place_singly(self, values: list[T], bodies: list[bytes]) -> None:
        """Accept those that have a partition, then raise why the first has none."""
        placed: list[tuple[bytes, str]] = []
        refused: RefusedError | None = None
        for value, body in zip(values, bodies, strict=True):
            try:
                placed.append((body, self._partition(value, body) or ""))
            except RefusedError as error:
                refused = refused or error
        if placed:
            await self._add([body for body, _ in placed], [partition for _, partition in placed])
        if refused is not None:
            raise refused

    async def _add(self, bodies: list[bytes], partitions: list[str] | None = None) -> None:
        lane = self._lane
        if lane is None:
            await self._append(bodies, partitions)
            return
        try:
            self._turn -= lane.add(bodies) if partitions is None else lane.spread(bodies, partitions)
        except (Overloaded, RefusedError):
            # All or none: where there is room again, and each by itself, so that one that is refused harms no other.
            await self._append(bodies, partitions)
            return
        if self._durable:
            await self.synced()
        elif self._turn <= 0 or lane is self._fast:
            self._turn = TURN
            step_aside()
            await asyncio.sleep(0)

    def _encoded(self, values: list[T]) -> list[bytes]:
        if self._verbatim and set(map(type, values)) <= {bytes}:
            return cast(list[bytes], values)
        encode = self._encode
        return [encode(value) for value in values]

    def _weighed(self, values: list[T]) -> tuple[list[bytes], int]:
        """The values encoded, and the bytes of all of them."""
        if self._verbatim and (size := _weigh(cast(list[bytes], values))) is not None:
            return cast(list[bytes], values), size
        bodies = self._encoded(values)
        return bodies, sum(map(len, bodies))

    async def _append(self, bodies: list[bytes], partitions: list[str] | None) -> None:
        if partitions is None:
            batch = [Outgoing(body) for body in bodies]
        else:
            batch = [Outgoing(body, partition=partition) for body, partition in zip(bodies, partitions, strict=True)]
        _raise_first(await self.binding.runtime.append(self.name, batch))

    def _partition(self, value: T, body: bytes) -> str | None:
        """Where it belongs; None where that is decided later, or never."""
        partitions = self._partitioning.partitions
        if partitions is None or self._derived:
            return None
        try:
            return partitions([value], [body])[0]
        except RefusedError as error:
            raise RefusedError(error.code, f"stream {self.name}: {error}") from None

    def outgoing(self, value: T, /) -> Outgoing:
        """One record as the store takes it, with its partition."""
        body = self.codec.encode(value)
        return Outgoing(body, partition=self._partition(value, body))

    def item(self, item: At[object, T], checkpoint: tuple[str, bytes]) -> Outgoing:
        """What a source yielded, with the position that commits with it."""
        return replace(self.outgoing(item.payload), checkpoint=checkpoint)

    # Transforming

    @overload
    def transform(
        self, function: Callable[[T], Awaitable[T | list[T] | None]], /
    ) -> Callable[[T], Awaitable[T | list[T] | None]]: ...
    @overload
    def transform(self, function: Callable[[T], T | list[T] | None], /) -> Callable[[T], T | list[T] | None]: ...
    def transform(self, function: Callable[[T], object], /) -> Callable[[T], object]:
        """Every record goes through this function before it is partitioned: the result is kept, None drops the record,
        a list is several records (where the payload is a list itself, it is one), raising sends the record to `errors/`
        as it came (Firehose: S28)."""
        check_shape(function, self.name, "transform", wanted_of(self.type), 1)
        self._take_transform(function)
        self._derive = one_by_one(function, self.codec, self._finish)
        return function

    def batch_transform(
        self,
        *,
        size: int = 500,
        buffer_bytes: int = 1 << 20,
        buffer_seconds: float = 1.0,
        retries: int = 3,
        timeout: float | None = None,
    ) -> Callable[[F], F]:
        """Records go through the decorated function in lists: of `size` records, of `buffer_bytes`, or of what has come
        `buffer_seconds` after the first, whichever is first; a flush does not wait (Firehose: S24).

        It returns a list of the same length. Each item is a record, a list of several, None to drop it, or
        `Failed(why)` or another exception to send it to `errors/` as it came. A plain function runs in a thread.

        If it raises, or takes longer than `timeout` seconds, it is called again up to `retries` times, later and later,
        and then with the halves of the list and theirs, once each: only records it fails on alone go to `errors/`, with
        how often they were tried. Results of another length send the whole list there at once.
        """
        options = BatchTransform(no_derive, size, buffer_bytes, buffer_seconds, retries, timeout)
        check_options(options, self._spec, "batch_transform")

        def register(function: F) -> F:
            name = type_name(self.type)
            check_shape(
                function, self.name, "batch_transform", f"def {{}}(records: list[{name}]) -> list[{name} | None]", 1
            )
            self._take_transform(function)
            self._batch = batchwise(function, self.codec, self._finish, options)
            return function

        return register

    def lambda_transform(
        self,
        function: LambdaHandler,
        /,
        *,
        buffer_bytes: int = 1 << 20,
        buffer_seconds: float = 60.0,
        retries: int = 3,
        timeout: float = 300.0,
    ) -> LambdaHandler:
        """Records go through a handler written for AWS: `handler(event, context)`, plain in a thread, or a coroutine.

        It gets and returns what Firehose's transformation functions do; `metadata.partitionKeys` of a record are its
        partition (Firehose: S25-S27, S53). When it raises or takes too long it is called again up to `retries` times,
        and then the whole batch goes to `errors/`; a reply that breaks the form goes there at once (Firehose: S29).
        """
        options = BatchTransform(no_derive, MOST_RECORDS, buffer_bytes, buffer_seconds, retries, timeout, bisects=False)
        check_options(options, self._spec, "lambda_transform", most_bytes=MOST_BYTES)
        check_shape(function, self.name, "lambda_transform", "def {}(event, context)", 2)
        self._take_transform(function)
        self._batch = lambda_batchwise(function, self.name, self._place_reply, options)
        return function

    def _take_transform(self, function: Callable[..., object]) -> None:
        if self._transform is not None:
            raise WiringError(f"stream {self.name} has a transform, {called(self._transform)}; call one from the other")
        if self._open:
            raise WiringError(f"stream {self.name} is open; declare its transform before the app starts")
        self._transform = function

    def plan(self) -> DeliveryPlan:
        """What the engine delivers. ConfigurationError when the prefix uses keys that nothing gives."""
        if self._awaits_keys and (self._batch is None or self._batch.lambda_arn is None):
            raise ConfigurationError(
                f"{self.binding.place}: stream {self.name}: its prefix uses partition keys, and nothing gives them; "
                "add partition_by, a function that returns them in a dict, or a lambda_transform"
            )
        later = self._partitioning.later
        if self._batch is not None:
            return DeliveryPlan(self.spec, batch=self._batch, placing=later)
        if self._derive is not None:
            return DeliveryPlan(self.spec, self._derive, placing=later)
        if self._partitioning.partitions is not None:
            return DeliveryPlan(self.spec, self._placing())
        return DeliveryPlan(self.spec, Outgoing if self._spec.unpacks or later else None, placing=later)

    def _finish(self, value: T) -> Outgoing:
        body = self.codec.encode(value)
        return Outgoing(body, partition=self._placed(value, body))

    def _placing(self) -> Callable[[bytes], Outgoing]:
        """What places records that come unplaced: unpacked ones, and those from topics and from the command line."""
        if not callable(self.partition_by):  # expressions look at the record itself
            return lambda body: Outgoing(body, partition=self._placed(cast(T, None), body))
        decode = self.codec.decode
        return lambda body: Outgoing(body, partition=self._placed(decode(body), body))

    def _placed(self, value: T, body: bytes) -> str | None:
        partitions = self._partitioning.partitions
        if partitions is None:
            return None
        try:
            return partitions([value], [body])[0]
        except RefusedError as error:
            raise Misplaced(str(error)) from error
        except Exception as error:
            raise Misplaced(f"{type(error).__name__}: {error}") from error

    def _place_reply(self, body: bytes, keys: Mapping[str, str] | None) -> Outgoing:
        """What a function for Firehose made of a record, beneath the keys it gave and those of `partition_by`."""
        if self._partitioning.later is not None and not keys:
            return Outgoing(body)
        try:
            own = self._own_key(body)
            if keys and (own is None or isinstance(own, Mapping)) and self._layout.takes_keys:
                own = {**(own or {}), **keys}
            partition = None if own is None and not self._layout.needs_keys else self._layout.partition(own or {})
        except Exception as error:
            raise Misplaced(f"{type(error).__name__}: {error}") from error
        return Outgoing(body, partition=partition)

    def _own_key(self, body: bytes) -> object:
        if callable(self.partition_by):
            return self.partition_by(self.codec.decode(body))
        if self._partitioning.later is not None:
            raise ConfigurationError("jq gives the keys of this stream, and the function gave others; let one give all")
        return self._partitioning.key(body) if self._partitioning.key is not None else None

    # Opening

    def bind(self, runtime: Runtime) -> None:
        """Records go to this runtime's store from now on."""
        self.binding.open(runtime)
        self._open.append(runtime)
        self._choose_lane()

    def unbind(self, runtime: Runtime) -> None:
        """The runtime is closed."""
        self.binding.close(runtime)
        if runtime in self._open:
            self._open.remove(runtime)
        self._choose_lane()

    def _choose_lane(self) -> None:
        self._lane = self._fast = None
        if len(self._open) != 1:
            return  # which of several is meant depends on who asks
        store = self._open[0].store
        self._lane = store.lane(self.name)
        self._durable = store.features.durable and self._spec.durability != "memory"
        if not self._durable and self.partition_by is None and not self._derived:
            self._fast = self._lane


def _add_or_count(lane: Lane, body: bytes, partition: str | None = None) -> None:
    """Accept one record, or count it among those that met the bound: nobody waits with it."""
    try:
        lane.add([body], partition)
    except Overloaded:
        lane.turned_away(1)
        raise


def _raise_first(answers: Sequence[Position | Refused]) -> None:
    for answer in answers:
        if isinstance(answer, Refused):
            raise RefusedError(answer.code, answer.reason)


def _weigh(values: list[bytes]) -> int | None:
    """Bytes of all of them; None when not all of them are bytes."""
    try:
        if len(values[0]) <= SMALL:
            # Joining asks for type and length at once: 9 ns a record of 100 B, asking for them in turn 40.
            return len(b"".join(values))
        return sum(map(len, values)) if set(map(type, values)) == {bytes} else None
    except (TypeError, IndexError):
        return None
