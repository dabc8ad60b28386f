"""A model behind HTTP: ``POST /v1/predict`` and what operators need, in one process or on Ray Serve.

:mod:`.service` holds the work and knows no web; :mod:`.app` is its face; :mod:`.running` starts both.
"""

from __future__ import annotations

from mask2former.errors import MissingExtraError

try:
    import fastapi as _fastapi  # noqa: F401
    import prometheus_client as _prometheus_client  # noqa: F401
    import python_multipart as _python_multipart  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as error:
    raise MissingExtraError(error.name or "fastapi", "serve") from error

from mask2former.serve.app import create_app
from mask2former.serve.running import serve
from mask2former.serve.settings import RayOptions, ServiceLimits, read_token

__all__ = ["RayOptions", "ServiceLimits", "create_app", "read_token", "serve"]
