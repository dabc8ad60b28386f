# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""Run-length encodings: all readers agree on one or all reject it, and encoding is undone by decoding."""

from __future__ import annotations

import atheris
import numpy as np

with atheris.instrument_imports(include=["mask2former"]):
    from harness import Provider, changed, run

    from mask2former.errors import UserError
    from mask2former.ops import masks as mask_ops


def _predict(function: object, rle: object) -> object:
    try:
        return function(rle)  # pyright: ignore[reportCallIssue]
    except UserError:
        return None


def target(data: Provider) -> None:
    kind = data.ConsumeIntInRange(0, 3)
    size = [data.ConsumeIntInRange(-1, 40), data.ConsumeIntInRange(-1, 40)]
    if kind == 0:
        rle = {"size": size, "counts": data.ConsumeBytes(64)}
    elif kind == 1:
        rle = {"size": size, "counts": data.ConsumeUnicode(64)}
    elif kind == 2:
        rle = {"size": size, "counts": data.ConsumeIntListInRange(data.ConsumeIntInRange(0, 20), 0, 200)}
    else:
        mask = np.frombuffer(data.ConsumeBytes(64).ljust(64, b"\0"), np.uint8).reshape(1, 8, 8) % 2 > 0
        rle = mask_ops.encode(mask)[0]
        assert (mask_ops.decode(rle) == mask).all()
        assert (mask_ops.decode({"size": [8, 8], "counts": rle["counts"].encode()}) == mask).all()
    if data.ConsumeBool():
        rle = changed(rle, data)
    readers = mask_ops.decode, mask_ops.decode_patch, mask_ops.encoded_extent
    whole, patch, extent = (_predict(read, rle) for read in readers)
    assert (whole is None) == (patch is None) == (extent is None), rle
    _predict(mask_ops.compress, rle)
    if whole is not None:
        assert isinstance(whole, np.ndarray)
        assert int(whole.sum()) == extent[0]  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]


if __name__ == "__main__":
    run(target)
