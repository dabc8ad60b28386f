"""Options that would have no effect, or that contradict each other, are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.cli import main


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["demo", "--clips", "3"], "--clips applies to --video; give both, or --scenes"),
        (["demo", "--video", "--scenes", "3", "--clips", "3"], "--scenes applies to images; give --clips with --video"),
        (
            ["verify-export", "a.onnx", "--against", "scenes-tiny", "--limit", "3"],
            "--limit applies to --data and --annotations; give one of them, or leave it out",
        ),
        (
            ["track", "a.mp4", "-o", "out", "-m", "scenes-tiny", "--video-id", "7"],
            "--video-id applies to --ytvis; give both or neither",
        ),
        (
            ["ablate", "scenes", "trainer.max_steps=100", "--steps", "50"],
            "--steps 50 and the override trainer.max_steps=100 set the same; give only one of them",
        ),
        (
            ["check-data", "a", "--propose", "b.yaml", "--suggest", "c.yaml"],
            "--propose is the former name of --suggest; give only one of them",
        ),
        (
            ["models", "--data", "coco", "--dataset", "coco"],
            "--data is the former name of --dataset; give only one of them",
        ),
        (["predict", "nuclei", "-o", "b", "-m", "slides"], "'nuclei' is the name of a model, and no such file or fold"),
        (["predict", "nuclei", "-o", "b", "-m", "slides"], "is it swapped with --model 'slides'?"),
        (["track", "scene-clips", "-o", "b"], "give it with --model"),
        (["predict", "a", "-o", "b", "-m", "scenes-tiny", "--shard-size", "9"], "--shard-size works only with --ray"),
        (
            ["predict", "a", "-o", "b", "-m", "scenes-tiny", "--ray", "--palette", "colorblind"],
            "--palette cannot be used with --ray, which writes shards",
        ),
    ],
)
def test_an_option_without_effect_is_refused(
    command: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
