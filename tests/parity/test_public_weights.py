"""The published numbers of a public model: its real weights from the hub, on a real image.

``pytest -m network tests/parity/test_public_weights.py`` downloads 276 MB from the Hugging Face hub and one image of
COCO. The comparison itself is also tested without the network, on a small model.
"""

from __future__ import annotations

import io
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from mask2former.checkpoints.formats.original import recipe_categories
from mask2former.models.mask2former import Mask2Former
from mask2former.recipes import recipe
from mask2former.structures import ModelInfo

NAME = "facebook/mask2former-swin-small-coco-instance"
IMAGE = "http://images.cocodataset.org/val2017/000000039769.jpg"
# Published by the tests of transformers for this model and image, resized to 384x384: the first corner of each.
PUBLISHED = {
    "backbone": [[-0.2790, -1.0717, -1.1668], [-0.5128, -0.3128, -0.4987], [-0.5832, 0.1971, -0.0197]],
    "mask features": [[0.8973, 1.1847, 1.1776], [1.1934, 1.5040, 1.5128], [1.1153, 1.4486, 1.4951]],
    "queries": [[2.1152, 1.7000, -0.8603], [1.5808, 1.8004, -0.9353], [1.6043, 1.7495, -0.5999]],
    "mask logits": [[-8.7839, -9.0056, -8.8121], [-7.4104, -7.0313, -6.5401], [-6.6105, -6.3427, -6.4675]],
    "class logits": [[1.8324, -8.0835, -4.1922], [0.8450, -9.0050, -3.6053], [0.3045, -7.7293, -3.0275]],
}


def values_of(model: Mask2Former, image: Tensor) -> dict[str, Tensor]:
    """The tensors whose corners are published.

    Args:
        model: ours.
        image: RGB in 0..255, ``(3, H, W)``, height and width multiples of 32.
    """
    queries: list[Tensor] = []
    last: Any = model.get_submodule("transformer_decoder.layers")[-1]  # pyright: ignore[reportIndexIssue]
    hook = last.register_forward_hook(lambda module, inputs, output: queries.append(output))
    with torch.inference_mode():
        maps = model.backbone(model.normalize([image]).flatten(0, 1))
        features = model.pixel_decoder(maps)
        output = model.transformer_decoder(features)
    hook.remove()
    return {
        "backbone": maps[-1][0, 0],
        "mask features": features.mask_features[0, 0],
        "queries": queries[0][0],  # before the last norm
        "mask logits": output.mask_logits[0, 0, 0],
        "class logits": output.class_logits[0],
    }


def test_the_values_are_those_that_transformers_means(tmp_path: Path) -> None:
    kinds: Any = transformers
    backbone = kinds.SwinConfig(
        embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = kinds.Mask2FormerConfig(backbone_config=backbone, num_labels=5, encoder_layers=2, decoder_layers=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other = kinds.Mask2FormerForUniversalSegmentation(config).eval()
    other.save_pretrained(tmp_path / "theirs")
    model = Mask2Former.from_pretrained(tmp_path / "theirs", tasks="instance").double()
    image = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(1))
    got = values_of(model, image)
    with torch.inference_mode():
        expected = other.double()(pixel_values=model.normalize([image]).flatten(0, 1))
    theirs = {
        "backbone": expected.encoder_last_hidden_state[0, 0],
        "mask features": expected.pixel_decoder_last_hidden_state[0, 0],
        "queries": expected.transformer_decoder_last_hidden_state[0],
        "mask logits": expected.masks_queries_logits[0, 0],
        "class logits": expected.class_queries_logits[0],
    }
    assert got.keys() == theirs.keys() == PUBLISHED.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-9)


@pytest.mark.network
def test_published_numbers_of_a_public_model() -> None:
    model = Mask2Former.from_pretrained(NAME)
    assert model.info == ModelInfo.of(recipe("coco-instance/swin-s").model, recipe_categories("coco-instance/swin-s"))
    with urllib.request.urlopen(IMAGE, timeout=60) as prediction:
        image = Image.open(io.BytesIO(prediction.read())).convert("RGB")
    resized = np.asarray(image.resize((384, 384), Image.Resampling.BILINEAR))
    got = values_of(model, torch.from_numpy(resized.copy()).permute(2, 0, 1))
    # Published to 1e-4 for a lossless copy of the image; JPEG decoders differ by one step of 255 here and there.
    expected = {name: torch.tensor(corner) for name, corner in PUBLISHED.items()}
    torch.testing.assert_close({name: got[name][:3, :3] for name in expected}, expected, rtol=0, atol=2e-2)
