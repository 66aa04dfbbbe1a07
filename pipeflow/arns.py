"""What AWS would call things, in whatever goes out in its shapes: one region and one account for all of them."""

from __future__ import annotations

from typing import Final

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"


def stream_arn(name: str, /) -> str:
    """What a stream is called in the events of functions and in the requests to endpoints (Firehose: S1)."""
    return f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{name}"


def function_arn(name: str, /) -> str:
    """What a function is called in error records (Firehose: S60)."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
