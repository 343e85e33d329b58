"""The servers behind an address: one HOST:PORT, or several as gRPC writes them.

``ipv4:192.0.2.1:8600,192.0.2.2:8600`` names two servers of one federation; whoever connects tries
them in this order. A name with several addresses (DNS) is one HOST:PORT and does the same.
"""

from typing import Final

ADDRESS_PATTERN: Final = (
    r"^([^\s/:,]+:\d{1,5}"
    r"|ipv4:[0-9.]+:\d{1,5}(,[0-9.]+:\d{1,5})*"
    r"|ipv6:\[[0-9a-f:]+\]:\d{1,5}(,\[[0-9a-f:]+\]:\d{1,5})*)$"
)
"""A regular expression of all addresses that Hansa takes."""

_SCHEMES = ("ipv4:", "ipv6:")


def endpoints_of(address: str) -> tuple[str, ...]:
    """Each HOST:PORT of an address, in the order in which they are tried."""
    for scheme in _SCHEMES:
        if address.startswith(scheme):
            return tuple(address.removeprefix(scheme).split(","))
    return (address,)
