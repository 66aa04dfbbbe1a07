"""Our signatures are the ones that botocore makes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials
from hypothesis import given
from hypothesis import strategies as st

from pipeflow_connectors.sigv4 import EMPTY, Credentials, path, query, signed

AT = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
WHO = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


class _May(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> _May:
        return cls(2013, 5, 24, tzinfo=tz)


def theirs(method: str, url: str, who: Credentials, region: str) -> str:
    request = AWSRequest(method=method, url=url, headers={"X-Amz-Content-SHA256": EMPTY})
    S3SigV4Auth(TheirCredentials(who.key_id, who.secret, who.token), "s3", region).add_auth(request)
    return str(request.headers["Authorization"])


@pytest.fixture
def _at(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(botocore.auth, "get_current_datetime"):
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: _May.now())
    monkeypatch.setattr(botocore.auth.datetime, "datetime", _May, raising=False)


@pytest.mark.parametrize("token", [None, "to/ken+=="])
@pytest.mark.parametrize(
    ("key", "parameters"),
    [
        ("", {"uploads": "", "prefix": "a/b c/ü&x=1/~-_."}),
        ("", {"uploads": "", "prefix": "", "key-marker": "a+b", "upload-id-marker": "x/y="}),
        ("pre fix/x=1/%41/ü/lake-1.jsonl.gz", {"uploadId": "a.b-c_d~e/f=="}),
    ],
)
@pytest.mark.usefixtures("_at")
def test_a_request_is_signed_as_botocore_signs_it(key: str, parameters: dict[str, str], token: str | None) -> None:
    who = Credentials(WHO.key_id, WHO.secret, token)
    url = f"https://s3.eu-central-1.amazonaws.com{path('bucket', key)}?{query(parameters)}"
    ours = signed("DELETE", url, who, region="eu-central-1", at=AT)["authorization"]
    assert ours == theirs("DELETE", url, who, "eu-central-1")


def test_the_example_in_the_documentation_of_s3_is_signed_as_it_is_there() -> None:
    # "GET Bucket Lifecycle" in "Authenticating Requests: Using the Authorization Header".
    headers = signed("GET", "https://examplebucket.s3.amazonaws.com/?lifecycle=", WHO, region="us-east-1", at=AT)
    assert headers["authorization"].endswith(
        "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_whatever_a_key_holds_stays_one_path(key: str) -> None:
    made = path("bucket", key)
    assert made.isascii()
    assert not set(made) & set("?#&+ %") - {"%"}


def test_printed_credentials_show_no_secret() -> None:
    assert "bPxRfi" not in repr(WHO) + str(WHO)
    assert WHO.key_id not in repr(WHO)
