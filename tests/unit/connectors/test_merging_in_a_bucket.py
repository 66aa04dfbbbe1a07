"""Small files in a bucket become one, told by manifests there; and a bucket is verified like a directory."""

from __future__ import annotations

from pathlib import Path

from manifest_reader import listed
from s3_server import S3Server

from pipeflow import App
from pipeflow.engine.verification import verify
from pipeflow.protocols import ReadableSink
from pipeflow.registry import open_sink


async def test_files_in_a_bucket_are_merged_deleted_and_verified(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    url = f"s3://{bucket}?endpoint={s3.endpoint}"
    lake = app.stream("lake", bytes, sink=url, compression="none", delimiter=b"\n", manifest=True)
    async with app.running() as runtime:
        for n in range(4):
            await lake.put(b"%d" % n)
            await lake.flush()
        await lake.compact(target=1 << 20, keep=0.0)
        await lake.compact(target=1 << 20, keep=0.0)
        objects = s3.objects(bucket)
        (name,) = listed(objects)
        assert objects[name] == b"0\n1\n2\n3\n"
        assert len(objects) == 2
        sink = open_sink(url)
        assert isinstance(sink, ReadableSink)
        assert (await verify(lake.spec, runtime.store, sink)).findings == []
        s3.client.put_object(Bucket=bucket, Key=name, Body=b"0\n1\n2\n4\n")
        assert [finding.what for finding in (await verify(lake.spec, runtime.store, sink)).findings] == ["damaged"]
        await sink.close()
