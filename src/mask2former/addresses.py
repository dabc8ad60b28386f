"""Addresses that a service of this package listens on: the socket, and the URL to open."""

from __future__ import annotations

import ipaddress
import socket

from mask2former.errors import OptionError

__all__ = ["bound", "is_loopback", "url_of"]


def bound(host: str, port: int) -> socket.socket:
    """A socket that reserves an address and refuses connections until listening starts.

    Args:
        host: name or address, IPv4 or IPv6.
        port: 0: any free port.

    Raises:
        UserError: the address does not belong to this machine, or is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _refused(f"{host!r} is not an address of this machine", error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address[0], port, *address[2:]))  # not the port of getaddrinfo, which wraps large ones around
    except (OSError, OverflowError) as error:
        listener.close()
        raise _refused(f"cannot listen on {host}, port {port}", error) from error
    return listener


def _refused(what: str, error: Exception) -> OptionError:
    reason = getattr(error, "strerror", None) or str(error)
    return OptionError(lambda name: f"{what} ({reason}); choose another {name('port')} or {name('host')}")


def is_loopback(host: str) -> bool:
    """Whether a service that listens on this name or address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(host: str, port: int) -> str:
    """The URL of a service; IPv6 addresses are put in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
