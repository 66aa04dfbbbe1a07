"""Which addresses a request may go to: decided on what a name resolved to, never on how it was spelt.

An address that carries another one is judged by that too, so that no translator leads where that could not. The tables
are the special-purpose registries of IANA; `ipaddress.is_global` of Python 3.11 lets some of them through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from msgspec import Struct

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

METADATA = tuple(
    map(
        ip_network,
        (
            "169.254.0.0/16",
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fd00:ec2::/32",  # AWS
            "fd20:ce::/32",  # Google
            "fd00:42::42/128",  # Scaleway
            "fe80::a9fe:a9fe/128",  # OpenStack
        ),
    )
)
"""Where clouds answer with the machine's own credentials. Nothing allows these."""

RESERVED_V4 = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by carriers
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
UNICAST_V6 = ip_network("2000::/3")
"""All that is assigned to the public; what lies outside is reserved, local or multicast."""
RESERVED_V6 = tuple(
    map(
        ip_network,
        (
            "2001::/23",  # protocol assignments, Teredo and ORCHID among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
_ALLOWING = "allow its network by endpoint=Endpoint(networks=(...)), or name this machine plainly as localhost"
NAT64 = ip_network("64:ff9b::/96")
TEREDO = ip_network("2001::/32")
SIX_TO_FOUR = ip_network("2002::/16")
CARRYING_AT_THE_END = tuple(
    map(
        ip_network,
        (
            "64:ff9b::/96",  # NAT64
            "64:ff9b:1::/48",  # NAT64 of a network's own
            "::ffff:0:0:0/96",  # SIIT
            "::/96",  # compatible
        ),
    )
)
ISATAP = (0x00005EFE, 0x02005EFE)


class Policy(Struct, frozen=True):
    """Where requests may go: public addresses, and what else is allowed by name."""

    loopback: bool = False
    networks: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    """Ports below 1024 besides 80 and 443."""

    def refusal(self, address: str) -> str | None:
        """Why no request may go to this address, with the remedy; None when one may."""
        parsed = ip_address(address.partition("%")[0])
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # the system connects to that one
        carried = [*_carried(parsed)]
        if any(_within(each, METADATA) for each in (parsed, *carried)):
            return f"{address} is an address of cloud metadata, and nothing allows those; name another host"
        if self.allows(parsed):
            return None
        for each in (parsed, *carried):
            if not _is_public(each):
                leads = "" if each == parsed else f": it leads to {each}"
                return f"{address} is not public{leads}, and only public ones are asked; {_ALLOWING}"
        return None

    def allows(self, address: Address) -> bool:
        """Whether this address was allowed by name, so that plain http may go there."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return (self.loopback and address.is_loopback) or _within(address, map(ip_network, self.networks))

    def allows_plain(self, addresses: Sequence[str]) -> bool:
        """Whether unencrypted requests may go to all of these."""
        return all(self.allows(ip_address(address.partition("%")[0])) for address in addresses)


def names_loopback(host: str) -> bool:
    """Whether a host, as it was written in a URL, plainly means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _within(address, RESERVED_V4)
    if address in NAT64:
        return True  # by itself; what it carries is looked at too
    return address in UNICAST_V6 and not _within(address, RESERVED_V6)


def _carried(address: Address) -> Iterable[Address]:
    """The IPv4 addresses inside an IPv6 one, by every scheme there is."""
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    last = IPv4Address(bits & 0xFFFFFFFF)
    if _within(address, CARRYING_AT_THE_END):
        yield last
    if address in SIX_TO_FOUR:
        yield IPv4Address((bits >> 80) & 0xFFFFFFFF)
    if address in TEREDO:
        yield IPv4Address((bits >> 64) & 0xFFFFFFFF)
        yield IPv4Address((bits & 0xFFFFFFFF) ^ 0xFFFFFFFF)
    if ((bits >> 32) & 0xFFFFFFFF) in ISATAP:
        yield last
