"""Models as files for other runtimes: ``mask2former export``. :mod:`mask2former.inference.exported` runs the files."""

from __future__ import annotations

from mask2former.export.comparison import Verified, VerifyReport, draw_report, verify_export
from mask2former.export.exporter import Exported, Target, WeightType, export

__all__ = ["Exported", "Target", "Verified", "VerifyReport", "WeightType", "draw_report", "export", "verify_export"]
