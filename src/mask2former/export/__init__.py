"""Models as files of other runtimes: ``mask2former export``. They run in :mod:`mask2former.inference.exported`."""

from __future__ import annotations

from mask2former.export.exporter import Exported, Format, export
from mask2former.export.verify import Verified, VerifyReport, verify_export

__all__ = ["Exported", "Format", "Verified", "VerifyReport", "export", "verify_export"]
