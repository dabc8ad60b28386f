"""What the OpenAPI document says about bodies and replies, with examples: plain data, for people and generators."""

from __future__ import annotations

from typing import Any

from mask2former.serve.uploads import FIELD

__all__ = ["HEALTH", "METRICS", "MODELS", "PREDICT_BODY", "PREDICT_REPLIES"]

_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_RLE = {
    "type": "object",
    "description": "COCO run lengths, column by column.",
    "properties": {"size": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}, "counts": _TEXT},
    "required": ["size", "counts"],
}
_POLYGONS = {
    "type": "object",
    "description": "GeoJSON in pixels: rasterised, it gives the exact mask. Pixel (x, y) reaches to (x + 1, y + 1).",
    "properties": {
        "type": {"const": "MultiPolygon"},
        "coordinates": {
            "type": "array",
            "items": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            },
        },
    },
    "required": ["type", "coordinates"],
}
_RECORD = {
    "type": "object",
    "properties": {
        "id": {**_COUNT, "description": "Panoptic: the value of the segment in the id map."},
        "label": {**_COUNT, "description": "Semantic: the class index."},
        "category_id": {"type": "integer"},
        "category_name": _TEXT,
        "is_thing": {"type": "boolean"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "area": {**_COUNT, "description": "Pixels."},
        "bbox": {
            "type": "array",
            "items": _NUMBER,
            "minItems": 4,
            "maxItems": 4,
            "description": "x, y, w, h in pixels.",
        },
        "segmentation": _RLE,
        "polygons": _POLYGONS,
    },
    "required": ["category_id", "category_name", "area"],
}
_RESULT = {
    "type": "object",
    "description": "As written to X.json by `mask2former predict`.",
    "properties": {
        "schema_version": {"const": 1},
        "image": {**_TEXT, "description": "The file name, or `image`."},
        "task": {"enum": ["panoptic", "instance", "semantic"]},
        "model": _TEXT,
        "settings": {"type": "object"},
        "size": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2, "description": "Height and width."},
        "segments": {"type": "array", "items": _RECORD, "description": "Task panoptic."},
        "instances": {"type": "array", "items": _RECORD, "description": "Task instance, the best first."},
        "classes": {"type": "array", "items": _RECORD, "description": "Task semantic."},
        "label_map": {**_TEXT, "format": "byte", "description": "masks=png: the id or label map, a PNG in Base64."},
        "notes": {
            "type": "array",
            "items": _TEXT,
            "description": "What was left out or inferred in reading the file.",
        },
    },
    "required": ["schema_version", "image", "task", "model", "settings", "size", "notes"],
}
_EXAMPLE = {
    "results": [
        {
            "schema_version": 1,
            "task": "instance",
            "model": "coco-instance/swin-t",
            "settings": {"short_edge": 800, "instance_threshold": 0.5},
            "size": [4, 6],
            "instances": [
                {
                    "category_id": 18,
                    "category_name": "dog",
                    "score": 0.97,
                    "area": 6,
                    "bbox": [1.0, 1.0, 3.0, 2.0],
                    "segmentation": {"size": [4, 6], "counts": "52203"},
                }
            ],
            "image": "dog.jpg",
            "notes": [],
        }
    ]
}
_PNG = {"type": "string", "format": "binary"}

PREDICT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {FIELD: {"type": "array", "items": _PNG, "minItems": 1}},
                "required": [FIELD],
                "additionalProperties": False,
            },
            "encoding": {FIELD: {"contentType": "image/*"}},
        },
        "application/octet-stream": {"schema": _PNG},
        "image/jpeg": {"schema": _PNG},
        "image/png": {"schema": _PNG},
    },
}


def _refusal(description: str, message: str, *, retry: bool = False) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"message": _TEXT, "request_id": _TEXT},
                "required": ["message", "request_id"],
            }
        },
        "required": ["error"],
    }
    example = {"error": {"message": message, "request_id": "5f2c9d0b6a1e4477"}}
    found: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example}},
    }
    if retry:
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": _COUNT}}
    return found


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: _refusal(
        "The bearer token is missing or wrong.", "this service needs the header 'Authorization: Bearer TOKEN'"
    ),
    408: _refusal("The body did not arrive in time.", "the body did not arrive within 60 s"),
    413: _refusal(
        "A body, a number of images or an image above the limits.", "at most 16 images are taken in one request"
    ),
    415: _refusal(
        "An unsupported type of body.", "the body has Content-Type 'text/plain'; expected multipart/form-data ..."
    ),
    422: _refusal(
        "What is not possible, and why.", "'dog.jpg' is not an image that can be read; expected JPEG, PNG, ..."
    ),
    429: _refusal("The queue is full.", "the service is busy; try again in 2 s", retry=True),
    500: _refusal("A fault of the service.", "the service failed; its log says more under this request id"),
    503: _refusal("Not ready, or short of memory.", "the image does not fit into the memory that is left", retry=True),
    504: _refusal("Not finished in time.", "the images were not finished within 60 s"),
}
PREDICT_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One result for each image, in order; or a PNG of one image.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"results": {"type": "array", "items": _RESULT}},
                    "required": ["results"],
                },
                "example": _EXAMPLE,
            },
            "image/png": {"schema": _PNG},
        },
    },
    **_ERRORS,
}
MODELS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The model, its classes and its settings.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "models": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "name": _TEXT,
                                    "version": {**_TEXT, "description": "Of this package."},
                                    "weights_sha256": {
                                        **_TEXT,
                                        "description": "Of the weights as they are used, as in results of predict.",
                                    },
                                    "tasks": {"type": "array", "items": _TEXT},
                                    "default_task": _TEXT,
                                    "classes": {"type": "array", "items": {"type": "object"}},
                                    "settings": {"type": "object"},
                                    "license": {"type": ["string", "null"]},
                                    "metrics": {"type": "object"},
                                    "device": _TEXT,
                                },
                                "required": [
                                    *("name", "version", "weights_sha256", "tasks", "default_task", "classes"),
                                    *("settings", "device"),
                                ],
                            },
                        }
                    },
                    "required": ["models"],
                }
            }
        },
    },
    401: _ERRORS[401],
    503: _ERRORS[503],
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Metrics in Prometheus format.", "content": {"text/plain": {"schema": _TEXT}}},
    401: _ERRORS[401],
}
HEALTH: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Yes.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
            }
        },
    },
    503: _ERRORS[503],
}
