"""URLs of buckets: what they mean, and that no secret stands in one or is shown from one."""

from __future__ import annotations

import pytest

from pipeflow.errors import ConfigurationError
from pipeflow_connectors.object_urls import Place, parse


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://lake", Place("s3", "lake")),
        ("s3://lake/", Place("s3", "lake")),
        ("s3://lake/a/b%20c/?region=eu-west-1", Place("s3", "lake", "a/b c", region="eu-west-1")),
        ("s3://lake?endpoint=http://127.0.0.1:9000/", Place("s3", "lake", endpoint="http://127.0.0.1:9000")),
        ("s3://lake?endpoint=http://[::1]:9", Place("s3", "lake", endpoint="http://[::1]:9")),
        ("s3://lake?endpoint=http://s3.lan&allow_http=true", Place("s3", "lake", endpoint="http://s3.lan")),
        ("gs://lake/x?timeout=5", Place("gs", "lake", "x", timeout=5.0)),
        ("az://box/x?account=acme&timeout=300", Place("az", "box", "x", account="acme", timeout=300.0)),
    ],
)
def test_a_url_names_bucket_prefix_and_options(url: str, place: Place) -> None:
    assert parse(url, {}) == place


def test_the_service_own_endpoint_variable_comes_before_the_general_one_and_the_url_before_both() -> None:
    both = {"AWS_ENDPOINT_URL": "https://general", "AWS_ENDPOINT_URL_S3": "https://special"}
    assert parse("s3://lake", both).endpoint == "https://special"
    assert parse("s3://lake", {"AWS_ENDPOINT_URL": "https://general"}).endpoint == "https://general"
    assert parse("s3://lake?endpoint=https://own", both).endpoint == "https://own"
    assert parse("gs://lake", both).endpoint is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://AKIA:hunter2@lake/x", "credentials do not belong in a URL"),
        ("s3://lake?secret_access_key=hunter2", "'secret_access_key' is unknown; use region"),
        ("az://box?sas_token=hunter2", "'sas_token' is unknown; use account"),
        ("s3://lake?endpoint=https://AKIA:hunter2@s3.lan", "do not belong in the endpoint"),
        ("s3://lake?endpoint=https://s3.lan/?key=hunter2", "no plain URL"),
        ("s3://lake?endpoint=http://s3.lan", "in the clear; use https, or say allow_http=true"),
        ("s3://lake?endpoint=http://127.0.0.1.evil.example", "in the clear"),
        ("s3://lake?endpoint=s3.lan:9000", "no plain URL; write https://host:port"),
        ("s3://lake?endpoint=https://s3.lan:port", "no plain URL"),
        ("s3://", "names no bucket alone; write s3://bucket/prefix"),
        ("s3://lake:9000/x", "names no bucket alone"),
        ("s3://lake/x#y", "names no bucket alone"),
        ("s3://[lake/x", "write s3://bucket/prefix"),
        ("s3://lake/../x", "the prefix cannot begin a name"),
        ("s3://lake/%2e%2e/x", "the prefix cannot begin a name"),
        ("s3://lake/a//b", "the prefix cannot begin a name"),
        ("s3://lake?region=", "'region' is empty"),
        ("s3://lake?region=a&region=b", "'region' is there twice"),
        ("gs://lake?anonymous=true", "'anonymous' is unknown; use endpoint"),
        ("gs://lake?region=a", "'region' is unknown; use endpoint"),
        ("s3://lake?timeout=0", "timeout is in whole seconds, from 1 to 3600"),
        ("s3://lake?timeout=1e3", "timeout is in whole seconds"),
        ("s3://lake?anonymous=perhaps", "anonymous is true or false"),
    ],
)
def test_what_is_not_right_is_told_when_the_sink_is_opened_and_no_secret_with_it(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(url, {})
    assert complaint in str(refused.value)
    assert "hunter2" not in str(refused.value)
