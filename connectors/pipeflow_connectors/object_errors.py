"""What object stores say when they refuse, in words for whoever has to repair it; never a secret, never a whole answer.

What an operator can set right without touching the object (a bucket, credentials, the network) is SinkUnavailable: the
segment waits for it. Only what no repair makes possible is ObjectRefused.
"""

from __future__ import annotations

import re

from pipeflow.errors import ObjectRefused, SinkError, SinkUnavailable

_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_QUERY = re.compile(r"\?\S*")
_LONGEST = 200

_COMPONENTS = {"s3": "S3", "gs": "GoogleStorage", "az": "Azure"}
_NEVER = {"KeyTooLongError": "the name with its prefix is too long", "EntityTooLarge": "the object is too large"}
_REMEDIES_BY_CODE = {
    "NoSuchBucket": "the bucket does not exist: create it, delivery goes on by itself",
    "ContainerNotFound": "the container does not exist: create it, delivery goes on by itself",
    "InvalidBucketName": "no bucket can have this name: correct the URL, then restart",
    "AccessDenied": "access denied: let these credentials put objects there",
    "InvalidAccessKeyId": "the key is unknown there: set other credentials, then restart",
    "SignatureDoesNotMatch": "the secret does not belong to the key: set other credentials, then restart",
    "ExpiredToken": "the credentials have expired: set new ones, then restart",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "PermanentRedirect": "the bucket lies in another region: name it with ?region=, then restart",
    "AuthorizationHeaderMalformed": "the bucket lies in another region: name it with ?region=, then restart",
    "NoSuchUpload": "the upload had ended when it was asked to; it is begun anew",
    "SlowDown": "asked to slow down; delivery is tried again later and later",
}
_REMEDIES_BY_STATUS = {
    "301": _REMEDIES_BY_CODE["PermanentRedirect"],
    "401": "the credentials are not accepted: set others, then restart",
    "403": _REMEDIES_BY_CODE["AccessDenied"],
    "404": "the bucket does not exist: create it, delivery goes on by itself",
    "429": _REMEDIES_BY_CODE["SlowDown"],
    "503": _REMEDIES_BY_CODE["SlowDown"],
}
_REMEDIES_BY_TEXT = {
    "169.254.169.254": "no credentials are found: set them in the environment, then restart",
    "169.254.170.2": "no credentials are found: set them in the environment, then restart",
    "no credentials are found": "set them in the environment, then restart",
    "metadata.google.internal": "no credentials are found: set GOOGLE_APPLICATION_CREDENTIALS, then restart",
}


def translated(error: BaseException, place: str) -> SinkError:
    """The error of a write or a read at `place` as the engine understands it; its code is `S3.` and what S3 said."""
    text = str(error)
    component = _COMPONENTS[place.partition("://")[0]]
    if isinstance(error, ValueError):
        text = text.partition("\n")[0][:_LONGEST]
        return ObjectRefused(f"{place}: no object can have this name: {text}", code=f"{component}.Name")
    found, status = _CODE.search(text), _STATUS.search(text)
    word = found.group(1) if found else f"Status{status.group(1)}" if status else "Unreachable"
    if word in _NEVER:
        return ObjectRefused(f"{place}: {_NEVER[word]} for this store", code=f"{component}.{word}")
    return SinkUnavailable(f"{place}: {described(text)}", code=f"{component}.{word}")


def described(text: str) -> str:
    """The code or status that an answer carries with its remedy; the first words of any other failure."""
    code, status = _CODE.search(text), _STATUS.search(text)
    for known, told in _REMEDIES_BY_TEXT.items():
        if known in text:
            return told
    if code is not None and code.group(1) in _REMEDIES_BY_CODE:
        return f"{code.group(1)}; {_REMEDIES_BY_CODE[code.group(1)]}"
    if status is not None:
        word = code.group(1) if code else f"status {status.group(1)}"
        # Not everything that is not found is the bucket.
        remedy = None if code and status.group(1) == "404" else _REMEDIES_BY_STATUS.get(status.group(1))
        return f"{word}; {remedy or 'delivery is tried again'}"
    # Azure's signatures stand in queries.
    words = _QUERY.sub("?...", text.partition("\n")[0].rpartition(" - ")[2])[:_LONGEST]
    return f"{words or 'no answer'}; is the endpoint reachable?"
