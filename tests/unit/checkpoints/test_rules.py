"""The tables of names compared with the published maps, both ways for every published model, and their errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mask2former import recipes
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.formats.openmmlab import MMDET, MMDET_2, MMSEG, MMSEG_2
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.layouts import MODELS
from mask2former.checkpoints.rules import Layout, from_original, their_name, to_original
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former

DATA = Path(__file__).parents[2] / "data"
KEYMAPS: dict[str, Any] = json.loads(gzip.decompress((DATA / "keymaps.json.gz").read_bytes()))
TABLES: dict[str, Any] = json.loads(gzip.decompress((DATA / "state_dicts.json.gz").read_bytes()))


@pytest.mark.parametrize(
    ("model", "column", "layout"),
    [
        ("swin_tiny", "hf", HUGGINGFACE),
        ("swin_tiny", "ssseg", SSSEG),
        ("swin_tiny", "mmdet3", MMDET),
        ("r50", "mmdet3", MMDET),
    ],
)
def test_names_of_the_published_maps(model: str, column: str, layout: Layout) -> None:
    compared = 0
    for row in KEYMAPS[model]:
        if row[column] is None:
            continue
        expected = row[column] if isinstance(row[column], list) else [row[column]]
        assert their_name(layout, row["official"]) == " + ".join(expected)
        parts = {name: torch.zeros([row["shape"][0] // len(expected), *row["shape"][1:]]) for name in expected}
        if "downsample" not in row["official"] and row["shape"]:
            assert list(to_original(layout, parts)) == [row["official"]]
        compared += 1
    assert compared > 450


def test_mmsegmentation_differs_in_the_prefix_only() -> None:
    for row in KEYMAPS["swin_tiny"]:
        if row["mmdet3"] is not None:
            expected = row["mmdet3"].replace("panoptic_head.", "decode_head.")
            assert their_name(MMSEG, row["official"]) == expected


def test_older_mmdetection_spells_layers_otherwise() -> None:
    encoder = "sem_seg_head.pixel_decoder.transformer.encoder.layers.2"
    predictor = "sem_seg_head.predictor.transformer"
    expected = {
        f"{encoder}.self_attn.value_proj.bias": "pixel_decoder.encoder.layers.2.attentions.0.value_proj.bias",
        f"{encoder}.linear1.weight": "pixel_decoder.encoder.layers.2.ffns.0.layers.0.0.weight",
        f"{encoder}.linear2.weight": "pixel_decoder.encoder.layers.2.ffns.0.layers.1.weight",
        f"{encoder}.norm1.weight": "pixel_decoder.encoder.layers.2.norms.0.weight",
        f"{predictor}_cross_attention_layers.1.multihead_attn.in_proj_bias": (
            "transformer_decoder.layers.1.attentions.0.attn.in_proj_bias"
        ),
        f"{predictor}_self_attention_layers.1.self_attn.out_proj.weight": (
            "transformer_decoder.layers.1.attentions.1.attn.out_proj.weight"
        ),
        f"{predictor}_ffn_layers.1.linear2.bias": "transformer_decoder.layers.1.ffns.0.layers.1.bias",
    }
    for published, theirs in expected.items():
        assert their_name(MMDET_2, published) == f"panoptic_head.{theirs}"
        assert their_name(MMSEG_2, published) == f"decode_head.{theirs}"


def meta_state(table: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for name, entry in table.items()
    }


def one_of_each_kind() -> set[str]:
    """The first recipe of each kind of backbone, and of each set of names of entries."""
    first: dict[object, str] = {}
    for slug in recipes.recipe_names("official"):
        model = recipes.recipe(slug).model
        names = tuple(sorted(TABLES["tables"][TABLES["configs"][recipes.recipe(slug).reproduces]]))
        first.setdefault(names, slug)
        first.setdefault((model.backbone.name, getattr(model.backbone, "norm", None)), slug)
    return set(first.values())


KINDS = one_of_each_kind()


# Slow: recipes whose entries differ from those of another recipe only in size, which the rules do not read.
@pytest.mark.parametrize(
    "slug",
    [
        pytest.param(slug, marks=[] if slug in KINDS else [pytest.mark.slow])
        for slug in recipes.recipe_names("official")
    ],
)
def test_every_published_model_there_and_back(slug: str) -> None:
    config = recipes.recipe(slug).model
    table = TABLES["tables"][TABLES["configs"][recipes.recipe(slug).reproduces]]
    state = meta_state(table)
    is_swin = config.backbone.name == "swin"
    for layout in MODELS:
        if layout is SSSEG and not is_swin:
            with pytest.raises(UserError, match=r"do not exist in sssegmentation: backbone\.stem\.conv1\.weight"):
                from_original(layout, state)
            continue
        theirs = from_original(layout, state)
        assert [other.title for other in MODELS if other.fits(theirs)] == [layout.title]
        back = to_original(layout, theirs)
        made_anew = ("relative_position_index", "criterion.empty_weight")
        expected = [name for name in state if name in back or not name.endswith(made_anew)]
        counters = [name for name in back if name.endswith("num_batches_tracked") and name not in state]
        assert [name for name in back if name not in counters] == expected
        assert bool(counters) == (not is_swin and layout.has_counters and config.backbone.name == "timm"
                                  and config.backbone.norm == "frozen")  # fmt: skip
        for name in expected:
            assert (back[name].shape, back[name].dtype) == (state[name].shape, state[name].dtype), name


@pytest.mark.parametrize("layout", MODELS, ids=lambda layout: layout.key)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_values_there_and_back(tiny_model: Mask2Former, layout: Layout, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=generator).to(dtype) if value.is_floating_point() else value
        for name, value in original.to_original(tiny_model).items()
    }
    back = to_original(layout, from_original(layout, state))
    assert [name for name in state if name in back] == list(back)
    for name, value in back.items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name
    assert len(state) - len(back) in (0, 1, 4, 5)  # one index for each block and the class weights


def test_merging_of_patches_is_an_unfold_there(tiny_model: Mask2Former) -> None:
    """Converted weights give the same map in a patch merging that unfolds, as mmdetection does."""
    name = "backbone.layers.0.downsample"
    state = {key: value for key, value in original.to_original(tiny_model).items() if key.startswith(name)}
    state[f"{name}.norm.weight"] = torch.rand(32, generator=torch.Generator().manual_seed(0))
    theirs = from_original(MMDET, state)
    grid = torch.randn((1, 6, 4, 8), generator=torch.Generator().manual_seed(1))
    merging: Any = tiny_model.backbone.get_submodule("layers.0.downsample")
    merging.norm.weight.data.copy_(state[f"{name}.norm.weight"])
    expected = merging(grid)

    tokens = torch.nn.functional.unfold(grid.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    prefix = "backbone.stages.0.downsample"
    normed = torch.nn.functional.layer_norm(
        tokens, (32,), theirs[f"{prefix}.norm.weight"], theirs[f"{prefix}.norm.bias"]
    )
    got = normed @ theirs[f"{prefix}.reduction.weight"].T
    torch.testing.assert_close(got.unflatten(1, (3, 2)), expected, rtol=1e-5, atol=1e-6)


def test_unknown_names_are_listed_as_the_file_spells_them(tiny_model: Mask2Former) -> None:
    theirs = from_original(MMDET, original.to_original(tiny_model))
    theirs["panoptic_head.query_fea.weight"] = torch.zeros(1)
    theirs["bbox_head.fc.weight"] = torch.zeros(1)
    with pytest.raises(
        UserError, match=r"2 entries that mmdet 3\.x does not have: panoptic_head\.query_fea\.weight, bbox"
    ):
        to_original(MMDET, theirs)


def test_two_spellings_of_one_entry_are_told(tiny_model: Mask2Former) -> None:
    theirs = from_original(HUGGINGFACE, original.to_original(tiny_model))
    encoder = "model.pixel_level_module.encoder"
    theirs[f"{encoder}.swin.embeddings.norm.weight"] = theirs[f"{encoder}.embeddings.norm.weight"]
    with pytest.raises(UserError, match=r"swin.embeddings.norm.weight' mean the same"):
        to_original(HUGGINGFACE, theirs)


def test_an_entry_in_both_spellings_is_told_with_what_the_layout_calls_it(tiny_model: Mask2Former) -> None:
    state = original.to_original(tiny_model)
    name, theirs = "sem_seg_head.predictor.query_feat.weight", from_original(MMDET, state)
    with pytest.raises(
        UserError, match=rf"'{name}' is called '{their_name(MMDET, name)}' in mmdet 3\.x, and the file has both"
    ):
        to_original(MMDET, {**theirs, name: state[name]}, known_only=False)


@pytest.mark.parametrize("fault", ["missing", "other shape", "other type"])
def test_parts_of_a_packed_projection_must_fit(tiny_model: Mask2Former, fault: str) -> None:
    theirs = from_original(HUGGINGFACE, original.to_original(tiny_model))
    name = "model.transformer_module.decoder.layers.1.self_attn.k_proj.weight"
    value = theirs.pop(name)
    if fault != "missing":
        theirs[name] = value[:5] if fault == "other shape" else value.double()
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj\.weight \+ .*k_proj"):
        to_original(HUGGINGFACE, theirs)


def test_shapes_that_cannot_be_permuted_are_told() -> None:
    with pytest.raises(UserError, match=r"stages\.0\.downsample\.norm\.weight' has an unexpected shape \(5,\)"):
        to_original(MMDET, {"backbone.stages.0.downsample.norm.weight": torch.zeros(5)})
