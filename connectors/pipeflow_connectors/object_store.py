"""Objects in S3, Google Cloud Storage and Azure: whole under a name that only they have (Firehose: S49, S70, S71).

A name belongs to one segment of one store, so that writing it again, after a lost response or a crash, replaces the
same bytes and makes no second object. Multipart uploads that were never finished are aborted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
import anyio.to_thread

from pipeflow.errors import ConfigurationError, MissingExtra, ObjectMissing, ObjectRefused, SinkError, SinkUnavailable
from pipeflow.names import MAX_NAME, check_name
from pipeflow.protocols import Object, Sink
from pipeflow_connectors import aws_credentials
from pipeflow_connectors.object_errors import translated
from pipeflow_connectors.object_urls import Place, parse
from pipeflow_connectors.s3_uploads import Uploads

try:
    from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
    from obstore.store import AzureStore, GCSStore, ObjectStoreMethods, S3Store
except ImportError as missing:
    raise MissingExtra("a sink at s3://, gs:// or az://", "s3") from missing

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

logger = logging.getLogger("pipeflow")

Names: TypeAlias = list[str]

MULTIPART_FROM = 16 << 20
"""Objects larger than this go in parts."""
PART = 8 << 20
AT_ONCE = 4
"""Parts on their way at a time; so many times PART is what an upload holds beside the object itself."""

TIDYING = 5.0
"""Seconds that a write which failed or was cancelled may take to abort its upload."""

_RETRIES: RetryConfig = {
    # A hiccup must not send a whole object again; everything longer is the delivery's to wait for.
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_FAILED = (BaseError, OSError, ValueError)
"""What the library raises; FileNotFoundError is among them."""


def open_s3(url: str, *, base: str) -> Sink:
    """`s3://bucket/prefix`, at AWS or at the endpoint that URL or environment name."""
    place = parse(url, os.environ)
    region = place.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = place.endpoint or f"https://s3.{region}.amazonaws.com"
    ask, unknown_to_library = (None, False) if place.anonymous else aws_credentials.find(os.environ)
    options: dict[str, Any] = {"region": region, "disable_bulk_delete": True}
    if place.endpoint is not None:
        options |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint, "virtual_hosted_style_request": False}
    if ask is not None and unknown_to_library:
        options["credential_provider"] = aws_credentials.for_library(ask)
    uploads = None
    if ask is not None or place.anonymous:
        uploads = Uploads(endpoint, place.bucket, region=region, ask=ask)
    return ObjectStoreSink(_made(S3Store, place, options), place, uploads)


def open_gs(url: str, *, base: str) -> Sink:
    """`gs://bucket/prefix`, with Google's application default credentials."""
    place = parse(url, os.environ)
    options = {} if place.endpoint is None else {"base_url": place.endpoint}
    return ObjectStoreSink(_made(GCSStore, place, options), place)


def open_az(url: str, *, base: str) -> Sink:
    """`az://container/prefix` in the account that URL or environment name."""
    place = parse(url, os.environ)
    options = {"account_name": place.account, "endpoint": place.endpoint}
    return ObjectStoreSink(_made(AzureStore, place, {k: v for k, v in options.items() if v is not None}), place)


def _made(kind: Any, place: Place, options: dict[str, Any]) -> ObjectStoreMethods:
    if place.anonymous:
        options["skip_signature"] = True
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(seconds=place.timeout),
        "allow_http": place.plain_http,
    }
    try:
        made: ObjectStoreMethods = kind(
            place.bucket,
            prefix=place.prefix or None,
            client_options=client,
            retry_config=_RETRIES,
            **options,
        )
    except _FAILED as error:
        raise ConfigurationError(f"sink {place}: {str(error).partition(chr(10))[0]}") from error
    return made


class ObjectStoreSink:
    """Writes objects below the prefix of a bucket."""

    def __init__(self, store: ObjectStoreMethods, place: Place, uploads: Uploads | None = None) -> None:
        """`uploads` where unfinished ones can be listed; elsewhere they end by a rule of the bucket."""
        self._store = store
        self._place = place
        self._uploads = uploads
        self._root = f"{place.prefix}/" if place.prefix else ""
        self._writing: set[str] = set()
        self._untidy: set[str] = set()
        """Names whose uploads could not be aborted when that was due."""
        self._unswept: list[Callable[[str], bool]] = []
        """Who asked for a sweep that did not come through."""

    def __str__(self) -> str:
        return str(self._place)

    async def write(self, obj: Object) -> None:
        """There whole when it returns. Cancelled or failed, it leaves nothing but what the same write replaces.

        SinkUnavailable: place and remedy. ObjectRefused: the name is taken by other bytes, or impossible.
        """
        self._check(obj.name)
        large = obj.size > MULTIPART_FROM
        try:
            if obj.replace or (large and not await self._is_there(obj.name)):
                await (self._upload(obj) if large else self._put(obj, "overwrite"))
            elif large:
                await self._accept_only_our_own(obj)
            else:
                await self._create(obj)
        except _FAILED as error:
            raise self._translated(error, obj.name) from error

    async def read(self, name: str) -> bytes:
        """The object's bytes; ObjectMissing when there is none."""
        self._check(name)
        try:
            found = await self._store.get_async(name)
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self._place}/{name}: no object lies there") from error
        except _FAILED as error:
            raise self._translated(error, name) from error

    async def delete(self, name: str) -> None:
        """Gone when it returns, also when it was not there; in a versioned bucket its versions stay."""
        self._check(name)
        try:
            await self._store.delete_async(name)
        except FileNotFoundError:
            pass  # Azure and Google say so, S3 does not
        except _FAILED as error:
            raise self._translated(error, name) from error

    async def list(self, prefix: str = "") -> list[str]:
        """Names that begin with `prefix`, sorted. Reads the listing of the folder that `prefix` lies in."""
        return sorted([name async for page in self.pages(prefix) for name in page])

    async def pages(self, prefix: str = "", size: int = 1000) -> AsyncGenerator[Names, None]:
        """The same, so many at a time."""
        folder = prefix.rpartition("/")[0]
        try:
            async for some in self._store.list(folder or None, chunk_size=size):
                yield [found["path"] for found in some if found["path"].startswith(prefix)]
        except _FAILED as error:
            raise self._translated(error, prefix) from error

    async def sweep(self, mine: Callable[[str], bool], rewritten: bool) -> int:
        """Abort uploads that a killed process left. Tells by SinkUnavailable that there is no such bucket."""
        if self._uploads is None:
            await self._look()
            return 0
        try:
            return await anyio.to_thread.run_sync(self._abort, self._root, mine, abandon_on_cancel=True)
        except SinkUnavailable as error:
            self._unswept.append(mine)
            raise SinkUnavailable(f"{self._place}: {error}") from error

    async def close(self) -> None:
        """Try once more to abort what could not be aborted before."""
        with anyio.move_on_after(TIDYING, shield=True):
            await self._tidy()

    def _check(self, name: str) -> None:
        check_name(name)
        if len((self._root + name).encode()) > MAX_NAME:
            raise ObjectRefused(
                f"{self._place}/{name}: longer than {MAX_NAME} bytes with its prefix; use a shorter one"
            )

    def _translated(self, error: Exception, name: str) -> SinkError:
        return translated(error, f"{self._place}/{name}")

    async def _put(self, obj: Object, mode: Literal["create", "overwrite"]) -> None:
        content = obj.chunks[0] if len(obj.chunks) == 1 else b"".join(obj.chunks)
        await self._store.put_async(obj.name, content, mode=mode, use_multipart=False)

    async def _create(self, obj: Object) -> None:
        try:
            await self._put(obj, "create")
        except AlreadyExistsError:
            await self._accept_only_our_own(obj)

    async def _accept_only_our_own(self, obj: Object) -> None:
        # The response to our own write may have been lost, and the library has then asked again by itself.
        if await self.read(obj.name) != b"".join(obj.chunks):
            raise ObjectRefused(
                f"{self._place}/{obj.name} exists and was not written by this store: "
                "was the store restored from a copy? Move the object away, then open the store again"
            )

    async def _is_there(self, name: str) -> bool:
        # There is no conditional multipart upload in the library; between this and the upload only another store of
        # the same id, a copy that runs at the same time, could write this name.
        try:
            await self._store.head_async(name)
        except FileNotFoundError:
            return False
        return True

    async def _upload(self, obj: Object) -> None:
        self._writing.add(obj.name)
        try:
            await self._store.put_async(
                obj.name, obj.chunks, mode="overwrite", use_multipart=True, chunk_size=PART, max_concurrency=AT_ONCE
            )
        finally:
            # Also behind a success: an attempt before it, in this process or in one that was killed, may have left
            # an upload, and so may a request of the library's own that had no answer.
            self._writing.discard(obj.name)
            self._untidy.add(obj.name)
            with anyio.move_on_after(TIDYING, shield=True):
                await self._tidy()

    async def _tidy(self) -> None:
        """Abort every unfinished upload of a name that is not being written, and what a sweep could not."""
        if self._uploads is None:
            self._untidy.clear()
        try:
            for name in self._untidy - self._writing:
                await anyio.to_thread.run_sync(self._abort, self._root + name, name.__eq__, abandon_on_cancel=True)
                self._untidy.discard(name)
            while self._unswept:
                await anyio.to_thread.run_sync(self._abort, self._root, self._unswept[-1], abandon_on_cancel=True)
                self._unswept.pop()
        except SinkUnavailable as error:
            logger.warning("%s: unfinished uploads may stay for now: %s", self._place, error)

    def _abort(self, prefix: str, mine: Callable[[str], bool]) -> int:
        assert self._uploads is not None
        # The whole list first: to take from it while it is paged through would skip some.
        found = tuple(self._uploads.unfinished(prefix))
        aborted = 0
        for upload in found:
            name = upload.key.removeprefix(self._root)
            if name not in self._writing and mine(name):
                self._uploads.abort(upload)
                aborted += 1
        return aborted

    async def _look(self) -> None:
        """Ask for the first names, only to learn whether the bucket is there."""
        try:
            async for _ in self._store.list(chunk_size=1):
                break
        except PermissionDeniedError:
            pass  # who may write need not be allowed to list
        except _FAILED as error:
            raise translated(error, str(self._place)) from error
