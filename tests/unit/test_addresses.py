"""Addresses of services: reserved before a model is loaded, or refused with the reason; and their URLs."""

from __future__ import annotations

import socket

import pytest

from mask2former.addresses import bound, url_of
from mask2former.errors import UserError


def test_urls_have_ipv6_addresses_in_brackets() -> None:
    assert url_of("127.0.0.1", 8000) == "http://127.0.0.1:8000"
    assert url_of("localhost", 80) == "http://localhost:80"
    assert url_of("::1", 8000) == "http://[::1]:8000"


def test_a_reserved_address_accepts_nobody_until_it_listens_and_is_then_in_use() -> None:
    with bound("localhost", 0) as listener:
        host, port = listener.getsockname()[:2]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=5)
        listener.listen()
        socket.create_connection((host, port), timeout=5).close()
        with pytest.raises(
            UserError, match=rf"cannot listen on {host}, port {port} \(.+\); choose another port or host"
        ):
            bound(host, port)


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    """Name resolution would turn port 70000 into 4464."""
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1, port {port} "):
        bound("127.0.0.1", port)


def test_a_host_that_is_none_of_this_machine_is_refused() -> None:
    with pytest.raises(UserError, match=r"'no\.such\.host\.invalid' is not an address of this machine"):
        bound("no.such.host.invalid", 0)
    with pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.7, port 0 "):
        bound("203.0.113.7", 0)
