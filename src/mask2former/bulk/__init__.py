"""Millions of images through one model, in shards, on the actors of Ray Data: ``mask2former predict SOURCES --ray``.

``sources`` names the images, ``plan`` divides them into shards once and for all, ``shards`` turns one shard into one
file of results, ``engine`` has Ray do so on many actors, ``run`` is the whole of it, and ``results`` reads them back.
Whatever is written goes through ``stores``: a folder, or a URL of fsspec. Only ``engine`` knows Ray.
"""

from __future__ import annotations

from mask2former.bulk.results import id_map, open_results, read_records
from mask2former.bulk.run import BulkReport, Failed, predict_bulk

__all__ = ["BulkReport", "Failed", "id_map", "open_results", "predict_bulk", "read_records"]
