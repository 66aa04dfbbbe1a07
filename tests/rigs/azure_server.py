"""Azure Blob Storage on the loopback: Azurite, where `scripts/azurite` has installed it, in a process of its own."""

from __future__ import annotations

import hmac
import os
import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the emulator, for everybody: its documentation prints both."""

PROGRAM = Path(__file__).parents[2] / ".azurite/node_modules/.bin/azurite-blob"


def missing() -> str | None:
    """Why there is no server; None: there can be one."""
    if shutil.which("node") and PROGRAM.exists():
        return None
    return "Azurite is not installed: scripts/azurite, which needs Node.js"


class AzureServer:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        self._port = port
        self._made = 0

    def container(self) -> str:
        """A new, empty container."""
        self._made += 1
        name = f"container-{os.getpid()}-{self._made}"
        headers = f"x-ms-date:{formatdate(usegmt=True)}\nx-ms-version:2021-08-06"
        no_headers = "\n" * 12
        signed = f"PUT{no_headers}{headers}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = b64encode(hmac.digest(b64decode(KEY), signed.encode(), "sha256")).decode()
        told = dict(header.split(":", 1) for header in headers.split("\n"))
        told["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=told)
            assert connection.getresponse().status == 201
        return name


@contextmanager
def azure_server(folder: Path) -> Iterator[AzureServer]:
    """A server that ends with the block and keeps what it is given in the folder."""
    command = [
        str(PROGRAM),
        "--blobPort",
        "0",
        "--location",
        str(folder),
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"successfully listens on http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                raise AssertionError("Azurite did not start")
            yield AzureServer(int(found[1]))
        finally:
            process.terminate()
