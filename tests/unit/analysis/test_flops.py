"""Multiply-adds: equal to those of the paper, and their parts."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mask2former import Mask2Former, recipes
from mask2former.analysis import count_flops, paper_sizes, skeleton
from mask2former.cli import main
from mask2former.config import ModelConfig
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.structures import MaskOutput

# In G, as the paper prints them (Tables 1 and 3 to XI; ADE20K: fixed squares of the crop).
PAPER = {
    "ade20k-semantic/r50": 71,
    "coco-instance/r50": 226,
    "ade20k-semantic/r101": 90,
    "ade20k-semantic/swin-t": 74,
    "ade20k-semantic/swin-s": 98,
    "ade20k-semantic/swin-b": 223,
    "ade20k-semantic/swin-l": 403,
    "coco-instance/r101": 293,
    "coco-instance/swin-t": 232,
    "coco-instance/swin-s": 313,
    "coco-instance/swin-b": 466,
    "coco-instance/swin-l": 868,
    "ablation/coco-instance/attention-full": 213,
    "ablation/coco-instance/attention-smca": 213,
    "ablation/coco-instance/attention-mask-pool": 217,
    "ablation/coco-instance/scales-s32": 218,
    "ablation/coco-instance/scales-s16": 222,
    "ablation/coco-instance/scales-s8": 239,
    "ablation/coco-instance/scales-naive": 247,
    "ablation/coco-instance/queries-50": 217,
    "ablation/coco-instance/queries-200": 246,
    "ablation/coco-instance/queries-300": 265,
    "ablation/coco-instance/queries-1000": 405,
}
ROWS = [name if index < 1 else pytest.param(name, marks=pytest.mark.slow) for index, name in enumerate(PAPER)]
PARTS = ("backbone", "pixel_decoder", "transformer_decoder", "masks")
SWITCHES = [{"attention": "full"}, {"attention": "mask_pool", "scales": "naive"}, {"scales": "s8"}]


def small(**decoder: object) -> Mask2Former:
    values = recipes.scenes_tiny().model.model_dump()
    values["transformer_decoder"] |= decoder
    return build_model(ModelConfig.model_validate(values), 5)


@pytest.mark.long
@pytest.mark.parametrize("name", ROWS)
def test_the_figures_of_the_paper(name: str) -> None:
    model = skeleton(name)
    cost = count_flops(model, paper_sizes(model))
    assert cost.published == pytest.approx(1e9 * PAPER[name], rel=0.01)
    assert cost.published is not None
    assert cost.multiply_adds < cost.published
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_sizes_that_they_are_counted_at() -> None:
    assert paper_sizes(skeleton("ade20k-semantic/r50")) == [(512, 512)]
    assert paper_sizes(skeleton("coco-instance/r50")) == [(800, 1067)] * 5 + [(800, 1200)] * 2
    with pytest.raises(UserError, match="no test size of its own; set size"):
        paper_sizes(skeleton("nuclei"))


def test_a_module_costs_what_its_modules_cost_and_its_own_products() -> None:
    model = small().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    cost = count_flops(model, [(64, 96)])
    assert model.training  # counting does not change the model
    assert model.pixel_decoder.full_precision  # pyright: ignore[reportAttributeAccessIssue]
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    rows = {row.name: row for row in cost.modules}
    children: dict[str, int] = defaultdict(int)
    parameters: dict[str, int] = defaultdict(int)
    for row in cost.modules[1:]:
        parent = row.name.rpartition(".")[0]
        children[parent] += row.multiply_adds
        parameters[parent] += row.parameters
    for name, total in children.items():
        assert total <= rows[name].multiply_adds
    for name in ("", "pixel_decoder.layers", "transformer_decoder.layers"):
        assert children[name] == rows[name].multiply_adds
    assert parameters[""] == cost.parameters
    assert sum(cost.operators.values()) == cost.multiply_adds
    assert rows["masks"].multiply_adds == 32 * 128 * 16 * 24  # queries, channels and pixels at stride 4
    assert rows["transformer_decoder.class_head"].multiply_adds == 32 * 128 * 6
    assert rows["transformer_decoder.class_head"].activations == 32 * 6
    assert rows["pixel_decoder.mask_projection"].activations == 128 * 16 * 24
    assert rows["masks"].activations == 32 * 16 * 24
    assert rows[""].activations == sum(rows[name].activations for name in PARTS)
    assert rows["pixel_decoder.mask_projection"].multiply_adds == 128 * 128 * 16 * 24


def test_a_feature_pyramid_costs_what_its_published_layers_cost() -> None:
    values = recipes.scenes_tiny().model.model_dump()
    values["pixel_decoder"] = {"name": "fpn", "dim": 128, "mask_dim": 128}
    cost = count_flops(build_model(ModelConfig.model_validate(values), 5), [(64, 96)])
    pixels = {stride: 64 * 96 // stride**2 for stride in (4, 8, 16, 32)}
    width, (res2, res3, res4, res5) = 128, (48, 96, 192, 320)
    laterals = width * (res2 * pixels[4] + res3 * pixels[8] + res4 * pixels[16])
    outputs = 9 * width * (res5 * pixels[32] + width * (pixels[16] + pixels[8] + pixels[4]))
    norms = 5 * width * (pixels[32] + 2 * (pixels[16] + pixels[8] + pixels[4]))
    embeddings = 9 * width * width * pixels[4]
    rows = {row.name: row.multiply_adds for row in cost.modules}
    assert rows["pixel_decoder"] == laterals + outputs + norms + embeddings


def test_frames_and_sizes() -> None:
    model = Mask2Former(Pyramid(), Levels(), Means())
    of_image = [16 * 24 * 8 * (3 * 16 + 1), 8 * 4]  # pixels with their mask; class head
    assert count_flops(model, [(64, 96)], 2).multiply_adds == 2 * of_image[0] + of_image[1]  # a query for all frames
    both = count_flops(model, [(50, 70), (128, 96)])  # padded to multiples of 32
    assert both.sizes == ((64, 96), (128, 96))
    assert both.multiply_adds == 1.5 * of_image[0] + of_image[1]


@pytest.mark.slow
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_published_code_differs_in_masks_alone(switches: dict[str, object]) -> None:
    # Counted by hand at 64x96: 384 pixels at stride 4, 6, 24 and 96 tokens, 3 layers, 32 queries, 128 channels.
    model = small(**switches)
    cost = count_flops(model, [(64, 96)])
    attention, scales = switches.get("attention", "masked"), switches.get("scales", "efficient")
    read = {"naive": 3 * 126, "s8": 3 * 96}.get(str(scales), 126) if attention != "full" else 0
    resized = 4 * 128 * (96 if scales == "s8" else 126)
    here = 32 * 128 * read + resized
    there = (32 * 128 * 3 * 384 if read else 0) + 4 * 32 * read
    assert cost.published == cost.multiply_adds - here + there + 4 * 32 * 64 * 96


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.stem(images)
        return [first, *(nn.functional.avg_pool2d(first, 2**level) for level in (1, 2, 3))]


class Levels(nn.Module):
    def forward(self, maps: list[Tensor]) -> PixelFeatures:
        return PixelFeatures(maps[0], maps[:0:-1])


class Means(nn.Module):
    def __init__(self, value: object = None) -> None:
        super().__init__()
        self.classes = nn.Linear(8, 4)
        self.value = value

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> MaskOutput:
        clips = (-1, num_frames)
        queries = features.multi_scale[0].mean((2, 3)).unflatten(0, clips).mean(1, keepdim=True)
        if self.value == "read":
            queries = queries * queries.sum().item()
        masks = torch.einsum("bqc,btchw->bqthw", queries, features.mask_features.unflatten(0, clips))
        return MaskOutput(self.classes(queries), masks, queries)


def test_parts_of_your_own_are_counted() -> None:
    cost = count_flops(Mask2Former(Pyramid(), Levels(), Means()), [(64, 96)])
    assert cost.published is None
    assert cost.multiply_adds == 16 * 24 * 8 * 3 * 16 + 8 * 4 + 8 * 16 * 24
    assert cost.parameters == 8 * 3 * 16 + 8 + 36


def test_a_part_that_needs_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="does not run on the meta device"):
        count_flops(Mask2Former(Pyramid(), Levels(), Means("read")), [(64, 96)])


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["-o", str(tmp_path / "cost.png")]
    assert main(["analyze", "flops", "scenes-tiny", "--depth", "1", "--size", "64x70", *output]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["module", "model", "backbone", "pixel_decoder", "transformer_decoder", "masks"]
    assert [line.split()[0] for line in lines[:6]] == names
    assert lines[1].split()[1] == "3,720,855"
    assert lines[6] == "Input: 64x96 pixels, padded."
    assert lines[7].startswith("As the paper counts, with the masks of the published code: 0.3 G")
    assert json.loads((tmp_path / "cost.json").read_text())["modules"][0]["activations"] > 1e6
    assert (tmp_path / "cost.png").stat().st_size > 1000
    assert main(["analyze", "flops", "scenes-tiny", "--json", *output]) == 2
    assert "give only one of the two" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "flops", "scenes-tiny", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["sizes"] == [[192, 256]] * 5 + [[192, 288]] * 2
    assert values["parameters"] == values["modules"][0]["parameters"] == 3720855
    assert abs(values["multiply_adds"] - sum(values["operators"].values())) <= len(values["operators"])  # rounded


@pytest.mark.parametrize("size", ["64", "64x", "0x64", "64x-3", "64x1000000"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "flops", "scenes-tiny", "--size", size]) == 2
    assert f"--size is '{size}'; expected height and width in pixels, as in 800x1216" in capsys.readouterr().err


def test_a_model_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "flops", "ablation/coco-instance/none"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
