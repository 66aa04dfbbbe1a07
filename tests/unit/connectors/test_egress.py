"""The one way out over HTTP goes to public addresses only, to the address it looked at, and tells no secret."""

from __future__ import annotations

import ast
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from http_endpoint import Behaviour, Hang, Reset, answer, closed_port, http_endpoint

from pipeflow.errors import ConfigurationError
from pipeflow_connectors.addresses import Policy, names_loopback
from pipeflow_connectors.egress import Answer, Egress, EgressError, Resolve, resolved, target_of

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = Policy()
LOCAL = Policy(loopback=True)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
        "172.31.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
        "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:0:7f00:1",
        "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "100::1",
        "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
        "2002:7f00:1::", "2002:a00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd12:3456::1",
        "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254", "4000::1",
        "2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:10.0.0.1", "100.100.100.200", "168.63.129.16",
    ],
)  # fmt: skip
def test_no_request_goes_to_an_address_that_is_not_public_however_it_is_wrapped(address: str) -> None:
    assert PUBLIC.refusal(address) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_asked(address: str) -> None:
    assert PUBLIC.refusal(address) is None


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "::ffff:169.254.169.254",
     "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fd20:ce::254", "fd00:42::42",
     "fe80::a9fe:a9fe%eth0", "64:ff9b:1::a9fe:a9fe", "::ffff:0:a9fe:a9fe", "::a9fe:a9fe"],
)  # fmt: skip
def test_cloud_metadata_is_never_asked_whatever_is_allowed(address: str) -> None:
    refusal = Policy(loopback=True, networks=("0.0.0.0/0", "::/0")).refusal(address)
    assert refusal is not None
    assert "name another host" in refusal
    assert "networks" not in refusal


def test_networks_are_allowed_by_name_and_nothing_beside_them() -> None:
    policy = Policy(networks=("10.1.0.0/16",))
    assert policy.refusal("10.1.2.3") is None
    assert policy.refusal("::ffff:10.1.2.3") is None
    assert policy.refusal("10.2.0.1") is not None
    assert policy.refusal("127.0.0.1") is not None


def test_loopback_does_not_lead_through_a_translator() -> None:
    assert LOCAL.refusal("127.0.0.1") is None
    assert LOCAL.refusal("::1") is None
    assert LOCAL.refusal("64:ff9b::7f00:1") is not None
    assert LOCAL.refusal("10.0.0.1") is not None


@pytest.mark.parametrize(
    ("host", "plainly"),
    [("localhost", True), ("a.localhost", True), ("127.0.0.1", True), ("::1", True), ("127.1", False),
     ("2130706433", False), ("0x7f.1", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_only_plain_words_mean_this_machine(host: str, plainly: bool) -> None:
    assert names_loopback(host) is plainly


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost"])
async def test_an_odd_spelling_of_loopback_is_judged_by_what_it_resolves_to(host: str) -> None:
    for address in await resolved(host, 443):
        assert PUBLIC.refusal(address) is not None


# URLs


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("ftp://example.org/", "only http"),
        ("https://user:hunter2@example.org/", "no user"),
        ("https://user@example.org/", "no user"),
        ("https://example.org/#part", "fragment"),
        ("https://example.org/a b", "spaces"),
        ("https://example.org/a\r\nX-Evil: 1", "control"),
        ("https://example.org/a\nb", "control"),
        ("https://example.org/\x00", "control"),
        ("https://example.org\\@localhost/", "backslashes"),
        ("https://ex\u00e4mple.org/", "ASCII"),
        ("https:///path", "host"),
        ("https://example.org:25/", "port 25"),
        ("https://example.org:99999/", "no URL"),
        ("https://[::1/", "no URL"),
    ],
)
def test_a_url_that_could_mean_two_things_is_refused_and_tells_no_secret(url: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong) as refused:
        target_of(url, PUBLIC)
    assert "hunter2" not in str(refused.value)


def test_the_path_is_sent_as_it_was_written_and_an_origin_is_all_that_errors_show() -> None:
    target = target_of("https://[2606:4700::1]:8443/a%2Fb/../c?key=x%20y", PUBLIC)
    assert (target.host, target.port, target.path) == ("2606:4700::1", 8443, "/a%2Fb/../c?key=x%20y")
    assert target.origin == "https://[2606:4700::1]:8443"
    assert target_of("https://example.org?x=1", PUBLIC).path == "/?x=1"
    assert target_of("https://example.org:993/", Policy(ports=(993,))).port == 993


# Requests


def at(*answers: Sequence[str]) -> Resolve:
    """A resolver that gives these answers one after another, the last for ever."""
    waiting = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return resolve


async def ask(egress: Egress, url: str, *, limit: int = 100, timeout: float = 10.0) -> Answer:
    try:
        return await egress.post(url, headers={"X-Key": "s3cret"}, content=b"{}", limit=limit, timeout=timeout)
    finally:
        await egress.close()


async def failed(egress: Egress, url: str, *, limit: int = 100, timeout: float = 10.0) -> EgressError:
    with pytest.raises(EgressError) as error:
        await ask(egress, url, limit=limit, timeout=timeout)
    assert "s3cret" not in str(error.value)
    assert "feed" not in str(error.value)
    return error.value


async def test_a_request_goes_out_under_the_name_to_the_address_and_asks_for_no_packing() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(200, b"hello")
        got = await ask(Egress(LOCAL, resolve=at(["127.0.0.1"])), f"http://name.localhost:{endpoint.port}/a%2Fb?c=%20")
        assert (got.status, got.body) == (200, b"hello")
        (request,) = endpoint.requests
        assert request.line == "POST /a%2Fb?c=%20 HTTP/1.1"
        assert request.headers["host"] == f"name.localhost:{endpoint.port}"
        assert request.headers["accept-encoding"] == "identity"


async def test_one_private_address_among_public_ones_refuses_all() -> None:
    error = await failed(Egress(PUBLIC, resolve=at(["8.8.8.8", "10.0.0.1"])), "https://example.org/")
    assert error.kind == "refused"
    assert "10.0.0.1 is not public" in str(error)
    assert "Endpoint(networks=(...))" in str(error)


async def test_a_name_that_changes_its_mind_is_judged_anew_at_each_request() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(204)
        egress = Egress(Policy(networks=("127.0.0.1/32",)), resolve=at(["127.0.0.1"], ["127.0.0.2"]))
        url = f"http://rebound.example.org:{endpoint.port}/"
        assert (await egress.post(url, headers={}, content=b"", limit=10, timeout=10)).status == 204
        error = await failed(egress, url)
        assert error.kind == "refused"
        assert len(endpoint.requests) == 1


async def test_the_look_is_the_only_one_so_that_a_second_answer_changes_nothing() -> None:
    looks = 0

    async def resolve(host: str, port: int) -> Sequence[str]:
        nonlocal looks
        looks += 1
        return ["127.0.0.1"] if looks == 1 else ["169.254.169.254"]

    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(200, b"hello")
        egress = Egress(Policy(networks=("127.0.0.0/8",)), resolve=resolve)
        assert (await ask(egress, f"http://rebound.example.org:{endpoint.port}/")).status == 200
        assert looks == 1


async def test_a_redirect_to_metadata_is_an_answer_like_others() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(302, b"", {"Location": "http://169.254.169.254/latest/meta-data/"})
        assert (await ask(Egress(LOCAL), endpoint.url)).status == 302
        assert len(endpoint.requests) == 1


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(204)
        assert (await ask(Egress(LOCAL), endpoint.url)).status == 204


async def test_plain_http_does_not_leave_the_machine() -> None:
    error = await failed(Egress(LOCAL, resolve=at(["8.8.8.8"])), "http://example.org/")
    assert error.kind == "refused"
    assert "https" in str(error)


async def test_the_next_address_is_tried_when_nothing_was_sent_to_the_first() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(204)
        egress = Egress(LOCAL, resolve=at(["::1", "127.0.0.1"]))  # the endpoint listens on the second only
        assert (await ask(egress, endpoint.url)).status == 204


def unending(request: object) -> bytes:
    return answer(200, b"x" * 101)


async def test_an_answer_is_read_to_its_limit() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = unending
        assert (await failed(Egress(LOCAL), endpoint.url)).kind == "too-large"


async def test_a_packed_answer_is_not_unpacked() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = lambda request: answer(200, b"not gzip", {"Content-Encoding": "gzip"})
        assert (await ask(Egress(LOCAL), endpoint.url)).body == b"not gzip"


def hang(request: object) -> bytes:
    raise Hang


def reset(request: object) -> bytes:
    raise Reset


async def test_what_was_sent_to_one_address_is_not_sent_to_the_next() -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = reset
        egress = Egress(LOCAL, resolve=at(["127.0.0.1", "127.0.0.1"]))
        assert (await failed(egress, endpoint.url)).kind == "reset"
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (hang, "timeout"),
        (reset, "reset"),
        (lambda request: answer(200, b"half", length=100), "timeout"),
        (lambda request: b"this is not HTTP\r\n\r\n", "reset"),
    ],
)
async def test_what_breaks_on_the_way_has_a_kind(behaviour: Behaviour, kind: str) -> None:
    async with http_endpoint() as endpoint:
        endpoint.behaviour = behaviour
        assert (await failed(Egress(LOCAL), endpoint.url, timeout=0.3 if kind == "timeout" else 10.0)).kind == kind


async def test_a_refused_connection_sent_nothing() -> None:
    assert (await failed(Egress(LOCAL), f"http://localhost:{closed_port()}/in?feed=1")).kind == "connect"


async def test_a_name_without_an_address_is_told() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    error = await failed(Egress(PUBLIC, resolve=nowhere), "https://nowhere.example.org/?feed=1")
    assert error.kind == "unresolved"


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate of its own for hooks.example.org, in one file."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example.org")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2020, 1, 1), datetime(2120, 1, 1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.org")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path / "hooks.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form) + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("host", "trusted", "kind"),
    [
        ("hooks.example.org", True, None),
        ("other.example.org", True, "connect"),
        ("hooks.example.org", False, "connect"),
    ],
)
async def test_tls_is_made_under_the_name_although_the_address_is_asked(
    certificate: Path, host: str, trusted: bool, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with http_endpoint(context) as endpoint:
        endpoint.behaviour = lambda request: answer(204)
        egress = Egress(Policy(networks=("127.0.0.1/32",)), resolve=at(["127.0.0.1"]))
        url = f"https://{host}:{endpoint.port}/in?feed=1"
        if kind is None:
            assert (await ask(egress, url)).status == 204
        else:
            assert (await failed(egress, url)).kind == kind
            assert endpoint.requests == []


# Nobody else goes out

HOMES = {
    "egress.py": "the one way out",
    "s3_uploads.py": "speaks to the bucket of a sink s3://, where the object store library has no call for it",
}
CLIENTS = {"httpx", "httpcore", "aiohttp", "requests", "urllib3", "http.client", "urllib.request", "websockets"}


def clients_in(source: str) -> set[str]:
    """The HTTP clients that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {client for name in names for client in CLIENTS if name == client or name.startswith(f"{client}.")}
    return found


def test_no_other_module_imports_an_http_client() -> None:
    homes = (ROOT / "pipeflow", ROOT / "connectors")
    found = {path.name for home in homes for path in home.rglob("*.py") if clients_in(path.read_text())}
    assert found == set(HOMES)


@pytest.mark.parametrize(
    "source", ["import httpx", "from urllib.request import urlopen", "from http import client", "import aiohttp.web"]
)
def test_an_http_client_elsewhere_is_noticed(source: str) -> None:
    assert clients_in(source)
