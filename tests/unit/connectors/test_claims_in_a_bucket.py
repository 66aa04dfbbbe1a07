"""Large bodies in a bucket: written before the commit, deleted behind the last one, orphans swept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from s3_server import S3Server, refused_port

from pipeflow import App, Unavailable
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Outgoing, Want

LARGE = b"x" * (3 << 20)


async def until_objects(s3: S3Server, bucket: str, count: int) -> None:
    def there() -> int:
        found: int = s3.client.list_objects_v2(Bucket=bucket)["KeyCount"]
        return found

    async with asyncio.timeout(20):
        while await asyncio.to_thread(there) != count:  # noqa: ASYNC110  # a bucket tells nobody
            await asyncio.sleep(0.05)


async def test_a_large_body_lies_in_the_bucket_until_its_last_message_is_done(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db", claims=f"s3://{bucket}/claims?endpoint={s3.endpoint}")
    topic = app.topic("scans", bytes)
    app.queue("a", bytes, topic)
    app.queue("b", bytes, topic)
    async with app.running(handlers=False) as runtime:
        await topic.publish(LARGE)
        ((name, content),) = s3.objects(bucket).items()
        assert name.startswith("claims/")
        assert content == LARGE
        for queue, left in (("a", 1), ("b", 0)):
            (delivery,) = await runtime.store.receive(queue, Want())
            assert delivery.body == LARGE
            await runtime.store.settle(queue, [Ack(delivery.receipt)])
            await until_objects(s3, bucket, left)


async def test_what_a_crash_left_in_the_bucket_is_deleted_by_the_next_start(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db", claims=f"s3://{bucket}/claims?endpoint={s3.endpoint}")
    scans = app.queue("scans", bytes)
    async with app.running(handlers=False) as runtime:
        await scans.send(LARGE)
        assert isinstance(runtime.store, Kept)
        store_id = runtime.store.store_id
    for name in (f"{store_id}-00000001-orphan", "aaaaaaaaaaaa-00000001-of-another-store"):
        s3.client.put_object(Bucket=bucket, Key=f"claims/{name}", Body=b"left")
    async with app.running(handlers=False) as runtime:
        await until_objects(s3, bucket, 2)
        (delivery,) = await runtime.store.receive("scans", Want())
        assert delivery.body == LARGE


async def test_a_bucket_out_of_reach_refuses_large_bodies_and_takes_small_ones(s3: S3Server, tmp_path: Path) -> None:
    url = f"s3://nowhere/claims?endpoint=http://127.0.0.1:{refused_port()}&timeout=1"
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db", claims=url)
    app.queue("scans", bytes)
    async with app.running(handlers=False) as runtime:
        with pytest.raises(Unavailable, match="cannot be kept aside"):
            await runtime.store.send("scans", [Outgoing(LARGE)])
        await runtime.store.send("scans", [Outgoing(b"small")])
        assert [each.body for each in await runtime.store.receive("scans", Want())] == [b"small"]
