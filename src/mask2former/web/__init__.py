"""A web page over the predictor: images and clips in, overlays and tables out. Thin; the work is done elsewhere.

:mod:`.visits` holds what each visitor has open and is free of gradio, :mod:`.views` makes of it what the browser shows,
:mod:`.page` is the page, :mod:`.guard` what stands before it, and :mod:`.server` serves it.
"""

from mask2former.web.server import open_app, open_models, serve_page

__all__ = ["open_app", "open_models", "serve_page"]
