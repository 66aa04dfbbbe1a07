"""Unfinished multipart uploads of a bucket: found and aborted, so that nobody pays for parts of what was never whole.

They have no name of their own in a listing of objects, and the object store library cannot list them. Blocking; the
sink calls it in a thread.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError
from xml.etree import ElementTree

from msgspec import Struct

from pipeflow.clock import SystemClock
from pipeflow.errors import SinkUnavailable
from pipeflow_connectors.aws_credentials import AskCredentials
from pipeflow_connectors.object_errors import described
from pipeflow_connectors.sigv4 import path, query, signed

TIMEOUT = 10.0
_MOST = 4 << 20
"""Bytes of an answer; a page of 1,000 uploads with the longest keys has below 3 MiB."""


class Upload(Struct, frozen=True):
    """One unfinished upload of an object."""

    key: str
    id: str


class Uploads:
    """The uploads of one bucket."""

    def __init__(self, endpoint: str, bucket: str, *, region: str, ask: AskCredentials | None) -> None:
        """`ask` is None for anonymous requests."""
        self._endpoint = endpoint
        self._bucket = bucket
        self._region = region
        self._ask = ask
        self._clock = SystemClock()
        self._opener = urllib.request.build_opener(_StayHere)

    def unfinished(self, prefix: str) -> Iterator[Upload]:
        """Uploads of keys that begin with `prefix`, page by page; SinkUnavailable when the bucket does not answer."""
        behind: dict[str, str] = {}
        while True:
            answer = self._request("GET", path(self._bucket), {"uploads": "", "prefix": prefix, **behind})
            page = _parsed(answer)
            for upload in page.iterfind("{*}Upload"):
                yield Upload(upload.findtext("{*}Key", ""), upload.findtext("{*}UploadId", ""))
            if page.findtext("{*}IsTruncated") != "true":
                return
            before, behind = (
                behind,
                {
                    "key-marker": page.findtext("{*}NextKeyMarker", ""),
                    "upload-id-marker": page.findtext("{*}NextUploadIdMarker", ""),
                },
            )
            if behind == before:
                raise SinkUnavailable("the list of unfinished uploads does not go on; is this an S3 endpoint?")

    def abort(self, upload: Upload) -> None:
        """Forget the upload and its parts; one that is gone already is no error."""
        self._request("DELETE", path(self._bucket, upload.key), {"uploadId": upload.id}, gone=True)

    def _request(self, method: str, where: str, parameters: dict[str, str], gone: bool = False) -> bytes:
        url = f"{self._endpoint}{where}?{query(parameters)}"
        headers = {}
        if self._ask is not None:
            headers = signed(method, url, self._ask(), region=self._region, at=self._clock.now())
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return bytes(answer.read(_MOST))
        except HTTPError as error:
            with error:
                text = error.read(_MOST).decode(errors="replace")
            if gone and error.code == 404:
                return b""
            raise SinkUnavailable(described(f"status code: {error.code} {error.reason}: {text}")) from None
        except (OSError, HTTPException) as error:
            raise SinkUnavailable(described(str(error))) from error


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A signature is for one host, and a redirect would send it to another."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _parsed(answer: bytes) -> ElementTree.Element:
    # An answer has no need of declarations, and with them it could grow without end.
    if b"<!" in answer:
        raise SinkUnavailable("the list of unfinished uploads is no list; is this an S3 endpoint?")
    try:
        return ElementTree.fromstring(answer)
    except ElementTree.ParseError as error:
        raise SinkUnavailable(
            f"the list of unfinished uploads cannot be read ({error}); is this an S3 endpoint?"
        ) from error
