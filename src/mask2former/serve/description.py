"""What the OpenAPI document says about bodies and replies, with examples: plain data, for people and generators."""

from __future__ import annotations

from typing import Any

from mask2former.serve.uploads import FIELD

__all__ = ["HEALTH", "METRICS", "MODELS", "PREDICT_BODY", "PREDICT_REPLIES"]

_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_PNG = {"type": "string", "format": "binary"}


def _list(items: dict[str, Any], length: int | None = None) -> dict[str, Any]:
    exactly = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": items, **exactly}


def _object(required: str = "", **properties: dict[str, Any]) -> dict[str, Any]:
    """An object; ``required`` names those of its properties that it always has, separated by spaces."""
    return {"type": "object", "properties": properties, **({"required": required.split()} if required else {})}


def _reply(text: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"description": text, "content": {"application/json": content}}


_RLE = {
    "description": "COCO run lengths, column by column.",
    **_object("size counts", size=_list(_COUNT, 2), counts=_TEXT),
}
_POLYGONS = {
    "description": "GeoJSON in pixels: rasterised, it gives the exact mask. Pixel (x, y) reaches to (x + 1, y + 1).",
    **_object(
        "type coordinates",
        type={"const": "MultiPolygon"},
        coordinates=_list(_list(_list(_list({"type": "integer"})))),
    ),
}
_RECORD = _object(
    "category_id category_name area",
    id={**_COUNT, "description": "Panoptic: the value of the segment in the id map."},
    label={**_COUNT, "description": "Semantic: the class index."},
    category_id={"type": "integer"},
    category_name=_TEXT,
    is_thing={"type": "boolean"},
    score={"type": "number", "minimum": 0, "maximum": 1},
    area={**_COUNT, "description": "Pixels."},
    bbox={**_list({"type": "number"}, 4), "description": "x, y, w, h in pixels."},
    segmentation=_RLE,
    polygons=_POLYGONS,
)
_RESULT = {
    "description": "As written to X.json by `mask2former predict`.",
    **_object(
        "schema_version image task model settings size notes",
        schema_version={"const": 1},
        image={**_TEXT, "description": "The file name, or `image`."},
        task={"enum": ["panoptic", "instance", "semantic"]},
        model=_TEXT,
        settings={"type": "object"},
        size={**_list(_COUNT, 2), "description": "Height and width."},
        segments={**_list(_RECORD), "description": "Task panoptic."},
        instances={**_list(_RECORD), "description": "Task instance, the best first."},
        classes={**_list(_RECORD), "description": "Task semantic."},
        label_map={**_TEXT, "format": "byte", "description": "masks=png: the id or label map, a PNG in Base64."},
        notes={**_list(_TEXT), "description": "What was left out or inferred in reading the file."},
    ),
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

PREDICT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                **_object(FIELD, **{FIELD: {**_list(_PNG), "minItems": 1}}),
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
    schema = _object("error", error=_object("message request_id", message=_TEXT, request_id=_TEXT))
    example = {"error": {"message": message, "request_id": "5f2c9d0b6a1e4477"}}
    headers = {"headers": {"Retry-After": {"description": "Seconds.", "schema": _COUNT}}} if retry else {}
    return {**_reply(description, schema, example), **headers}


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
_RESULTS = _reply(
    "One result for each image, in order; or a PNG of one image.", _object("results", results=_list(_RESULT)), _EXAMPLE
)
_RESULTS["content"]["image/png"] = {"schema": _PNG}
PREDICT_REPLIES: dict[int | str, dict[str, Any]] = {200: _RESULTS, **_ERRORS}
_MODEL = _object(
    "name version weights_sha256 tasks default_task classes settings device",
    name=_TEXT,
    version={**_TEXT, "description": "Of this package."},
    weights_sha256={**_TEXT, "description": "Of the weights as they are used, as in results of predict."},
    tasks=_list(_TEXT),
    default_task=_TEXT,
    classes=_list({"type": "object"}),
    settings={"type": "object"},
    license={"type": ["string", "null"]},
    metrics={"type": "object"},
    device=_TEXT,
)
MODELS: dict[int | str, dict[str, Any]] = {
    200: _reply("The model, its classes and its settings.", _object("models", models=_list(_MODEL))),
    401: _ERRORS[401],
    503: _ERRORS[503],
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Metrics in Prometheus format.", "content": {"text/plain": {"schema": _TEXT}}},
    401: _ERRORS[401],
}
HEALTH: dict[int | str, dict[str, Any]] = {
    200: _reply("Yes.", _object("status", status={"const": "ok"})),
    503: _ERRORS[503],
}
