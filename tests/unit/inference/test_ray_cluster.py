"""A missing cluster is reported at once, before anything is loaded."""

from __future__ import annotations

import socket

import pytest

from mask2former.errors import UserError
from mask2former.inference.ray_cluster import cluster_address, joined_cluster


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nobody_listens_is_no_cluster(scheme: str, closed_port: int) -> None:
    pytest.importorskip("ray")
    address = f"{scheme}127.0.0.1:{closed_port}"
    told = []
    with (
        pytest.raises(UserError, match=rf"no Ray cluster at '{address}' .*ray start --head.*RAY_ADDRESS"),
        joined_cluster(address, 1, lambda *args: told.append(args)),
    ):
        raise AssertionError
    assert not told


def test_the_cluster_is_the_one_given_else_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address() == "10.0.0.1:6379"
    assert cluster_address("10.0.0.2:6379") == "10.0.0.2:6379"
