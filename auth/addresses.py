"""Whom an address stands for, where callers are counted by it."""

from __future__ import annotations

import ipaddress


def source_of(address: str | None) -> str:
    """The address itself; of IPv6 the network of 64 bits, all of which one caller has. "" for None."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    # The neighbours on one cable share a network, and are different callers.
    return str(parsed if parsed.is_link_local else ipaddress.ip_network((parsed, 64), strict=False))
