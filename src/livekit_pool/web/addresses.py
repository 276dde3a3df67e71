"""
Which address a client has: its socket's, unless a proxy that is trusted tells another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

__all__ = ["Network", "client_address", "neighbourhood"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(peer: str, forwarded_for: bytes, proxies: Sequence[Network]) -> str:
    """
    The client's address, given the socket's ``peer`` and the ``X-Forwarded-For`` it sent.

    Only addresses that a trusted proxy added count: the list is read from its end, as long as
    who told us is in one of ``proxies``.
    """
    address = peer
    if proxies and forwarded_for:
        for told in reversed(forwarded_for.decode("latin-1").split(",")):
            if not _within(address, proxies):
                break
            try:
                address = str(ipaddress.ip_address(told.strip()))
            except ValueError:
                break
    return address


def neighbourhood(address: str) -> str:
    """
    The addresses that one client can have, ``address`` among them.

    In IPv6 that is a whole /64, in which a host chooses addresses as it likes (RFC 8981).
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def _within(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
