"""The web page as a space on the hub, which starts this file and shows what listens on the port."""

from __future__ import annotations

import os

from mask2former.web import open_models, serve_page

MODELS = ["scenes-tiny", "nuclei"]  # names, files, folders, or hf://owner/name

if __name__ == "__main__":
    serve_page(open_models(MODELS), host="0.0.0.0", port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
