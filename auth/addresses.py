"""The source by which callers are counted, given their address."""

from __future__ import annotations

import ipaddress


def source_of(address: str | None) -> str:
    """Return the address itself; of IPv6 its network of 64 bits, all of which one caller has. "" for None."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    # Neighbours on one link share a network, and are different callers.
    return str(parsed if parsed.is_link_local else ipaddress.ip_network((parsed, 64), strict=False))
