"""A service without keys is for the processes of its own machine. A browser there runs other people's pages, too."""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers

from fogtune.platform.config.describe import shown

from .problems import Problem


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address (IPv6 with or without brackets), is this machine to itself alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def check_local(headers: Headers, *, readable: bool) -> None:
    """Raises Problem for what a page of another site makes a browser on this machine send.

    `readable`: the method changes nothing. What another site reads so, its browser does not show to it.
    """
    hosts = headers.getlist("host")
    host = hosts[0] if len(hosts) == 1 else ""
    name = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", host)
    if name is None or not is_loopback(name[1]):
        # A site may let its own name resolve to 127.0.0.1 (DNS rebinding); the browser then takes us for that site.
        raise Problem(421, f"Host {shown(host)}: without API keys only localhost, 127.0.0.1 and [::1] are answered")
    origin = headers.get("origin")
    if origin is not None and not readable and origin.partition("://")[2].lower() != host.lower():
        raise Problem(403, f"Origin {shown(origin)}: without API keys pages of other sites are not served")
