"""Names under which the page is requested. This module imports no package of the extra `label`."""

from __future__ import annotations

import ipaddress

from aihf_control.core.errors import BadInput

LOOPBACK = ("127.0.0.1", "localhost")


def check_host(host: str, trusted: bool) -> tuple[str, ...]:
    """Return the names under which the page may be requested, in lower case, first the one that is printed.

    Raises BadInput for a host that is not this machine's own, unless its network is `trusted`, and for one that is
    every interface.
    """
    host = host.lower()
    if host in LOOPBACK:
        return host, *(name for name in LOOPBACK if name != host)
    if host in ("", "0.0.0.0", "::", "*"):
        raise every_interface(host)
    if ":" in host:
        raise BadInput(f"--host {host}: give an IPv4 address or a name, and the port with --port")
    if not trusted:
        raise BadInput(
            f"--host {host} lets other machines reach the page, unencrypted; use 127.0.0.1 and `ssh -L`, or accept "
            "that with --trust-network"
        )
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return (host, *LOOPBACK) if loopback else (host,)


def every_interface(host: str) -> BadInput:
    """Return the error for a host that stands for all addresses of the machine."""
    return BadInput(f"--host {host!r} is every interface; give the one address that annotators will type")
