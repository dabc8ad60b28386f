"""A model behind HTTP: ``POST /v1/predict`` and what operators need, in one process or on Ray Serve.

:mod:`.service` holds the work and knows no web; :mod:`.app` is its face; :mod:`.running` starts both.
"""

from __future__ import annotations

from mask2former.extras import need

need("serve", "fastapi", "prometheus_client", "python_multipart", "uvicorn", to="serve models")

from mask2former.serve.app import create_app  # noqa: E402
from mask2former.serve.running import serve  # noqa: E402
from mask2former.serve.settings import RayOptions, ServiceLimits, read_token  # noqa: E402

__all__ = ["RayOptions", "ServiceLimits", "create_app", "read_token", "serve"]
