"""Faults end reading, or are collected on request."""

from __future__ import annotations

import pytest

from mask2former.data.faults import collected_faults, fault
from mask2former.errors import UserError


def test_a_fault_is_raised_unless_faults_are_collected() -> None:
    with pytest.raises(UserError, match="broken"):
        fault("broken")
    with collected_faults() as faults:
        fault("one")
        with collected_faults() as others:
            fault("two", 5)
        fault("three")
    assert faults == [("one", 1), ("three", 1)]
    assert others == [("two", 5)]
    with pytest.raises(UserError, match="broken"):
        fault("broken")
