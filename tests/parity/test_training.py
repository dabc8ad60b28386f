"""Three published training steps, the optimizer's settings per parameter, and learning rates over steps."""

from __future__ import annotations

import json
from typing import Any

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import arrays, facts, filled_model, model_names
from test_criterion import replayed

from mask2former import recipes
from mask2former.config import OptimConfig
from mask2former.data.clips import assemble_clip
from mask2former.data.loading.collate import pack
from mask2former.losses import Criterion
from mask2former.models.build import build_model
from mask2former.structures import Sample, Target
from mask2former.training.optim import build_optimizer, learning_rate_factor, parameter_groups

TRAINING = ("train_r50_coco_panoptic", "train_r50_cityscapes_instance_batchnorm")
OPTIMIZERS: dict[str, Any] = json.loads((golden.TRIMMED / "optimizer_groups.json").read_text())
SCHEDULES: dict[str, Any] = json.loads((golden.TRIMMED / "lr_schedules.json").read_text())


def slug_of(config: str) -> str:
    return next(slug for slug in recipes.recipe_names("official") if recipes.recipe(slug).reproduces == config)


def targets_of(case: str, padded: tuple[int, int]) -> list[Target]:
    targets = []
    for index, count in enumerate(facts(case)["targets_per_image"]):
        height, width = arrays(case)[f"image{index}"].shape[:2]
        bits = np.unpackbits(arrays(case)[f"target{index}.masks_packed"], axis=1)[:, : height * width]
        masks = torch.from_numpy(bits.reshape(count, 1, height, width).astype(bool))
        masks = F.pad(masks, (0, padded[1] - width, 0, padded[0] - height))
        targets.append(Target(torch.from_numpy(arrays(case)[f"target{index}.labels"]), masks))
    return targets


@pytest.mark.parametrize("case", TRAINING)
def test_published_steps(case: str) -> None:
    slug = golden.SLUGS[case]
    model = filled_model(slug).train()
    assert model.categories is not None
    # The reference filled its class weights too, hence 0.1 rounded to float32.
    rounded, points = float(np.float32(0.1)), facts(case)["config_overrides"][1]
    criterion = Criterion(len(model.categories), no_object_weight=rounded, num_points=points)
    settings = OptimConfig()
    optimizer = build_optimizer(model, settings)
    images = [torch.from_numpy(arrays(case)[f"image{index}"]).permute(2, 0, 1).double() for index in range(2)]
    ours = dict(model_names(slug))
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for step, expected in enumerate(facts(case)["steps"]):
        # Later steps see tiny gradients through the optimizer's normalisation, hence the looser tolerance.
        tolerance = 1e-8 if step == 0 else 1e-4
        output = model(images)
        losses = criterion(output, targets_of(case, output.padded_size), replayed(case, f"rand{step}_"))
        for name, value in expected["losses_weighted"].items():
            weight = criterion.weights["_".join(name.split("_")[:2])]
            assert weight * losses.terms[name].item() == pytest.approx(value, rel=tolerance), (step, name)
        assert losses.total.item() == pytest.approx(expected["total"], rel=tolerance)
        optimizer.zero_grad()
        losses.total.backward()
        for module, norm in expected["gradient_norm_per_module"].items():
            names = [name for published, name in ours.items() if name and f"{published}.".startswith(f"{module}.")]
            squares = [values[name].grad.square().sum() for name in names if values[name].grad is not None]
            assert torch.stack(squares).sum().sqrt().item() == pytest.approx(norm, rel=max(tolerance, 1e-7)), module
        if step == 0:
            for key in [key for key in arrays(case) if key.startswith("grad.")]:
                gradient = values[ours[key.removeprefix("grad.")] or ""].grad
                np.testing.assert_allclose(gradient, arrays(case)[key], rtol=1e-6, atol=1e-7, err_msg=key)
            for key in [key for key in arrays(case) if key.startswith("after_step0.")]:
                buffer = values[ours[key.removeprefix("after_step0.")] or ""]
                np.testing.assert_allclose(buffer, arrays(case)[key], rtol=1e-9, atol=1e-12, err_msg=key)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        assert norm.item() == pytest.approx(expected["gradient_norm_total"], rel=tolerance)
        optimizer.step()
    for key in [key for key in arrays(case) if key.startswith("final.")]:
        value = values[ours[key.removeprefix("final.")] or ""].detach()
        np.testing.assert_allclose(value, arrays(case)[key], rtol=1e-4, atol=1e-6, err_msg=key)


def test_clips_of_a_training_step() -> None:
    """Targets of clips, with labels of the last frame, and losses and gradients of a step equal the published ones."""
    case = "train_video_r50_ytvis2019"
    stored, expected = arrays(case), facts(case)
    clips = []
    for index in range(expected["clips"]):
        frames, annotated = [], []
        classes = np.stack([stored[f"clip{index}.frame{frame}.classes"] for frame in range(2)])
        present = classes != 40  # the published code gives objects that are not annotated the class "none"
        labels = torch.from_numpy(np.where(present[0], classes[0], classes[1]))
        for frame in range(2):
            image = torch.from_numpy(stored[f"clip{index}.frames"][frame]).permute(2, 0, 1)
            masks = torch.from_numpy(stored[f"clip{index}.frame{frame}.masks"])
            frames.append(Sample(image[None], Target(labels, masks[:, None])))
            annotated.append(present[frame])
        clips.append(assemble_clip(frames, np.stack(annotated, axis=1), 40, "last-frame"))
        target = clips[-1].target
        assert target is not None
        np.testing.assert_array_equal(target.labels, stored[f"clip{index}.target_labels"])
        np.testing.assert_array_equal(target.masks.flatten(2).any(2), stored[f"clip{index}.target_ids"] >= 0)

    slug = golden.SLUGS[case]
    model = filled_model(slug).train()
    criterion = Criterion(40, no_object_weight=float(np.float32(0.1)), num_points=expected["config_overrides"][1])
    batch = pack(clips).unpack()
    output = model([clip.image.double() for clip in clips])
    assert output.mask_logits.shape[2] == 2
    losses = criterion(output, batch.targets, replayed(case))
    for name, value in expected["losses_weighted"].items():
        weight = criterion.weights["_".join(name.split("_")[:2])]
        assert weight * losses.terms[name].item() == pytest.approx(value, rel=1e-8), name
    assert losses.total.item() == pytest.approx(expected["total"], rel=1e-9)
    losses.total.backward()
    ours = dict(model_names(slug))
    values = dict(model.named_parameters())
    for key in [key for key in stored if key.startswith("grad.")]:
        gradient = values[ours[key.removeprefix("grad.")] or ""].grad
        assert gradient is not None
        np.testing.assert_allclose(gradient, stored[key], rtol=1e-6, atol=1e-7, err_msg=key)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert norm.item() == pytest.approx(expected["gradient_norm_total"], rel=1e-8)


@pytest.mark.parametrize("config", sorted(OPTIMIZERS))
def test_every_parameter_has_the_published_rate_and_decay(config: str) -> None:
    slug = slug_of(config)
    with torch.device("meta"):
        model = build_model(recipes.recipe(slug).model, 7)
    expected = OPTIMIZERS[config]
    settings = OptimConfig()
    assert (settings.lr, settings.betas, settings.eps) == (
        expected["base_lr"],
        tuple(expected["betas"]),
        expected["eps"],
    )
    assert settings.clip_norm == expected["clip"]["value"]
    groups = parameter_groups(model, settings)
    assert len(groups) <= 4
    actual = {name: [group["lr_multiplier"], group["weight_decay"]] for group in groups for name in group["names"]}
    published = {name: key for key, name in model_names(slug) if name is not None}
    assert {published[name]: value for name, value in actual.items()} == expected["parameters"]


@pytest.mark.parametrize("config", sorted(SCHEDULES))
def test_published_schedules(config: str) -> None:
    expected = SCHEDULES[config]
    kind = "poly" if "Poly" in expected["name"] else "step"
    settings = OptimConfig(
        lr=expected["base_lr"],
        schedule=kind,
        steps=tuple(expected["steps"]) if kind == "step" else (),
        gamma=expected["gamma"],
        poly_power=expected["poly_power"],
        warmup_steps=expected["warmup_iters"],
        warmup_factor=expected["warmup_factor"],
    )
    for iteration, rate in expected["lr_at_iteration"].items():
        factor = learning_rate_factor(int(iteration), expected["max_iter"], settings)
        assert settings.lr * factor == pytest.approx(rate, rel=1e-12), iteration
