"""Published models load by name and compute the published numbers.

The files are written here, with names, shapes and order of the published ones and values of ``fill.py``. A server on
this machine provides them under a zoo with the same rows but its own addresses and hashes. All 59, one after the
other, need 4 GB of memory, 3 GB of disk, and from six seconds (ResNet-50, an idle core) each:
``pytest -m slow tests/integration/test_zoo_weights.py``
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from fill import fill, write_checkpoint
from golden import arrays
from torch import Tensor
from web import Server, serve

from mask2former import Predictor, checkpoints, recipes
from mask2former.checkpoints.formats.original import original_names, recipe_categories
from mask2former.checkpoints.zoo import packaged_zoo
from mask2former.models.backbones.swin import relative_position_index
from mask2former.models.mask2former import Mask2Former

pytestmark = pytest.mark.long

TABLES: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "data" / "state_dicts.json.gz").read_bytes())
)
OFFICIAL = [row.name for row in packaged_zoo().values() if row.provider.name == "official"]
GOLDEN = ("r50_coco_panoptic", "r50_cityscapes_instance", "video_r50_ytvis2019")


class TestZoo:
    """Serves files in the published layout, filled with generated values, under the published names."""

    __test__ = False

    def __init__(self, folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.server = folder, server
        monkeypatch.setenv("MASK2FORMER_ZOO", str(folder / "zoo.json"))
        monkeypatch.setenv("MASK2FORMER_CACHE", str(folder / "cache"))
        for name in ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)

    def publish(self, name: str) -> None:
        """Write the file of a model and put its row, with the file's address and hash, in the zoo."""
        table = TABLES["tables"][TABLES["configs"][recipes.recipe(name).reproduces]]
        backbone = recipes.recipe(name).model.backbone
        index = relative_position_index(getattr(backbone, "window_size", 1)).numpy()
        indices = {entry: index for entry in table if entry.endswith("relative_position_index")}
        path = self.folder / "written.pkl"
        write_checkpoint(table, path, integer_entries=indices)
        with path.open("rb") as stream:
            md5 = hashlib.file_digest(stream, "md5").hexdigest()[:6]
        path.rename(self.folder / f"model_final_{md5}.pkl")
        values = json.loads(resources.files("mask2former").joinpath("assets", "zoo.json").read_text())
        (row,) = (row for row in values["models"] if row["name"] == name)
        file = f"model_final_{md5}.pkl"
        row |= {"file": file, "checksum": f"md5:{md5}", "url": f"{self.server.url}/{file}"}
        (self.folder / "zoo.json").write_text(json.dumps(values))


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestZoo]:
    with serve(tmp_path) as server:
        yield TestZoo(tmp_path, server, monkeypatch)
    for file in tmp_path.rglob("*.pkl"):
        file.unlink()


def check_facts(model: Mask2Former, name: str) -> None:
    recipe = recipes.recipe(name)
    assert model.info.architecture == recipe.model.architecture
    assert model.categories == recipe_categories(name)
    assert model.info.license == "CC BY-NC 4.0"


def check(actual: Tensor, case: str, key: str, tolerance: float) -> None:
    assert actual.shape == arrays(case)[key].shape
    np.testing.assert_allclose(actual.numpy(), arrays(case)[key], rtol=1e-6, atol=tolerance, err_msg=key)


def check_golden(model: Mask2Former, case: str) -> None:
    is_clip = "frames" in arrays(case)
    pixels = torch.from_numpy(arrays(case)["frames" if is_clip else "image0"])
    pixels = pixels.permute(0, 3, 1, 2) if is_clip else pixels.permute(2, 0, 1)
    with torch.no_grad():
        output = model.double()([pixels.double()], aux_outputs=False)
    prefix, masks = ("", output.mask_logits) if is_clip else ("image0.", output.mask_logits[:, :, 0])
    check(output.class_logits, case, f"{prefix}pred_logits", 1e-6)
    whole = f"{prefix}pred_masks" in arrays(case)
    check(masks if whole else masks[:, ::5], case, f"{prefix}pred_masks{'' if whole else '_every5'}", 1e-5)


@pytest.mark.parametrize(
    "case",
    # tests/parity compares all numbers of all cases, and how a name leads to a file does not depend on the model.
    [pytest.param(case, marks=() if case == "r50_coco_panoptic" else pytest.mark.slow) for case in GOLDEN],
)
def test_a_published_model_loads_by_name_and_gives_the_published_numbers(zoo: TestZoo, case: str) -> None:
    name = golden.SLUGS[case]
    zoo.publish(name)
    predictor = Predictor.from_pretrained(name, device="cpu")
    check_facts(predictor.model, name)
    assert predictor.settings == recipes.recipe(name).model.inference
    check_golden(predictor.model, case)

    checkpoints.fetch(name)
    assert len(zoo.server.requests) == 1  # it is in the cache now


def _check_values(model: Mask2Former, name: str) -> None:
    """Every entry of the model is the one that was published under its name, to the last bit."""
    state = model.state_dict()
    compared = 0
    for published, ours in original_names(recipes.recipe(name).model):
        if ours is not None and state[ours].is_floating_point():
            expected = fill(published, tuple(state[ours].shape)).astype(np.float32)
            np.testing.assert_array_equal(state[ours].numpy(), expected, err_msg=published)
            compared += 1
    assert compared > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
def test_every_published_model_loads_by_name(zoo: TestZoo, name: str) -> None:
    zoo.publish(name)
    model = Mask2Former.from_pretrained(name)
    check_facts(model, name)
    _check_values(model, name)
    cases = [case for case in (*GOLDEN, "swin_tiny_ade_semantic") if golden.SLUGS[case] == name]
    for case in cases:
        check_golden(model, case)
    if not cases:  # no stored numbers: at least it predicts, with as many queries and classes as published
        is_clip, row = recipes.recipe(name).is_video, checkpoints.current_zoo()[name]
        with torch.no_grad():
            output = model([torch.zeros((2, 3, 64, 64) if is_clip else (3, 64, 64))], aux_outputs=False)
        assert output.class_logits.shape == (1, row.queries, len(recipe_categories(name)) + 1)
        assert output.mask_logits.shape == (1, row.queries, 2 if is_clip else 1, 16, 16)
        assert output.mask_logits.isfinite().all()
