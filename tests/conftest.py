"""What tests of several folders share: one S3 and one Azure for the whole session, what a compiled build leaves out."""

from collections.abc import Iterator

import pytest
from azure_server import KEY, AzureServer, azure_server, missing
from s3_server import ENVIRONMENT, S3Server, s3_server

from pipeflow.state import queue

COMPILED = not queue.__file__.endswith(".py")


def pytest_report_header() -> str:
    return f"pipeflow: {'compiled, ' if COMPILED else ''}{queue.__file__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        pure = item.get_closest_marker("pure")
        if COMPILED and pure is not None:
            item.add_marker(pytest.mark.skip(reason=f"compiled: {pure.args[0]}"))


@pytest.fixture(scope="session")
def _running_s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(_running_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """S3 on the loopback, with credentials for it in the environment and no others."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return _running_s3


@pytest.fixture(scope="session")
def _running_azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    if reason := missing():
        pytest.skip(reason)
    with azure_server(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture
def azure(_running_azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> AzureServer:
    """Azure Blob Storage on the loopback, with its key in the environment."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    return _running_azure
