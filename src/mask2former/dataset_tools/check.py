"""Reads a data set completely: what it contains, and what is wrong with it.

Every image is read with its annotation, exactly as training would, and those of validation also as the evaluators
would; of clips every frame, and figures are those of frames. Prints nothing.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Unpack

import numpy as np

from mask2former import recipes
from mask2former.config import (
    AugmentationConfig,
    ClipSampling,
    DatasetConfig,
    MixedConfig,
    Reading,
    ResizeCropFlipConfig,
    RunConfig,
    SceneClipsConfig,
    ScenesConfig,
    Task,
)
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import build_samples
from mask2former.data.checks import (
    Finding,
    Named,
    Split,
    class_findings,
    findings_about,
    id_findings,
    label_findings,
    palette_findings,
    unlisted_findings,
)
from mask2former.data.clips import ClipSet
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.faults import Fault, collected_faults
from mask2former.data.mixed import parts_of
from mask2former.dataset_tools.figures import DataReport, SplitSummary, Unit, cell_diameter
from mask2former.dataset_tools.reading import DARK, ImageSummary, figures_of, read_summaries
from mask2former.dataset_tools.requirements import class_map_findings, run_findings
from mask2former.errors import UserError
from mask2former.notes import counted

__all__ = ["check_dataset", "open_split"]

_SPLITS: tuple[Split, ...] = ("train", "validation")
_QUERIES = 100  # of published models
_PARTICULARS = re.compile(r"'[^']*'|\([^()]*\)|\[[^][]*\]|[\d.]+")  # removed, so that messages of one kind are equal
_NOTHING = "nothing is annotated"


def check_dataset(
    config: DatasetConfig,
    *,
    run: RunConfig | None = None,
    num_queries: int | None = None,
    num_workers: int = 0,
    progress: Callable[[Split, int, int], None] = lambda split, done, total: None,
    **reading: Unpack[Reading],
) -> DataReport:
    """Read all images and annotations of a data set, and apply every check that training and evaluation apply.

    Args:
        config: the data set.
        run: the run whose data it is, if any: its settings are checked, too.
        num_queries: of the model that is to be trained on it; None: that of the run or, without one, 100, which are
            for each tile where :func:`~mask2former.dataset_tools.suggest.suggest_config` chooses a model that segments
            tile by tile.
        num_workers: number of reading processes; 0: this one.
        progress: called with the split, the number of images done, and the total.
        reading: how that model reads images, see :func:`~mask2former.media.images.read_image`.

    Raises:
        UserError: the data set is drawn.
    """
    if isinstance(config, (ScenesConfig, SceneClipsConfig)):
        raise UserError(
            f"data sets '{config.name}' are drawn and not checked; expected images or clips that are read from files"
        )
    if isinstance(config, MixedConfig):  # each image counts once
        config = MixedConfig(parts=tuple(part.model_copy(update={"repeat": 1}) for part in config.parts))
    unit: Unit = "frame" if isinstance(config, ClipSampling) else "image"
    findings: list[Finding] = []
    opened: dict[Split, AnnotatedSet | ClipSet] = {}
    splits: dict[Split, SplitSummary] = {}
    digests: dict[Split, dict[bytes, str]] = {}
    maps: dict[Split, dict[str, list[Named]]] = {}  # of each part of a mixed data set
    task: Task = "instance"
    queries = _queries(num_queries, run)
    is_divided = run is not None and run.data.validation is not None
    held_out = getattr(config, "validation", None)
    same = is_divided or (held_out is not None and getattr(config, "train", None) == held_out)
    is_alone = not same and held_out == ()
    for split in _SPLITS[: 1 if same or is_alone else 2]:
        filter_empty = run is not None and run.data.filter_empty and not same and split == "train"
        samples, problems = open_split(config, split, filter_empty=filter_empty, **reading)
        # What is said of both in the same words is about one file, such as the names file.
        known = frozenset(findings)
        findings += [problem for problem in problems if replace(problem, split="train") not in known]
        if samples is None:
            continue
        task = "instance" if isinstance(samples, ClipSet) else samples.tasks[0]
        summaries = read_summaries(samples, split, same or split == "validation", num_workers, progress)
        splits[split] = figures_of(summaries, samples.categories)
        if split == "train" and task == "instance" and unit == "image" and cell_diameter(splits[split]) is not None:
            queries = _queries(num_queries, run or recipes.nuclei())
        maps[split] = _maps_of_parts(samples, summaries)
        findings += _findings(summaries, samples, maps[split], split, queries, task, unit)
        if run is not None and task != "semantic" and (least := run.model.inference.min_area):
            findings += _small_findings(summaries, split, unit, least)
        if split == "train" and (run is None or _darkens(run.data.augmentation)):
            findings += _dark_findings(summaries, split, unit)
        if all(samples.categories.names != other.categories.names for other in opened.values()):
            findings += class_findings(samples.categories, split)
        if (same or split == "validation") and not isinstance(samples, ClipSet):
            findings += id_findings(samples, split)
        opened[split] = samples
        digests[split] = {summary.digest: summary.name for summary in summaries if summary.problem is None}
    validation = opened.get("train" if same else "validation")
    if len(maps) == 2:
        for name in maps["train"].keys() & maps["validation"].keys():
            found = palette_findings(maps["validation"][name], "validation", maps["train"][name])
            findings += _named(found, name)
    if (
        "train" in opened
        and validation is not None
        and len(set(names := opened["train"].categories.names)) == len(names)
    ):
        findings += class_map_findings(opened["train"].categories, validation.categories)
    if run is not None:
        if same and not is_divided:
            message = "the training data is used instead, so the metrics do not show how the model does on other images"
            findings.append(Finding("validation", False, message))
        if is_alone:
            findings.append(Finding("validation", False, "there is no validation data: no metrics are computed"))
        known = opened.get("train", validation)
        findings += run_findings(run, None if known is None else known.categories, validation)
    findings += _leaks(digests, unit)
    if same or is_alone or len(opened) == 2:  # images of a split that cannot be read may be there
        findings += unlisted_findings(opened)
    findings.sort(key=lambda finding: not finding.broken)
    return DataReport(splits, tuple(findings), task, queries.number, unit, queries.is_tiled)


class _Queries(NamedTuple):
    """How many a model has; ``is_tiled``: for each of the tiles that it segments one by one."""

    number: int
    is_tiled: bool = False


def _queries(given: int | None, run: RunConfig | None) -> _Queries:
    if given is not None or run is None:
        return _Queries(given or _QUERIES)
    return _Queries(run.model.transformer_decoder.queries or _QUERIES, run.model.inference.tile > 0)


def open_split(
    config: DatasetConfig, split: Split, *, filter_empty: bool = False, **reading: Unpack[Reading]
) -> tuple[AnnotatedSet | ClipSet | None, list[Finding]]:
    """The data set without its broken parts, as far as its reader can continue; these parts; and what else to know."""
    samples: AnnotatedSet | ClipSet | None = None
    with collected_faults() as faults:
        try:
            samples = build_samples(config, split, filter_empty=filter_empty, **reading)
        except UserError as error:
            faults.append(Fault(str(error)))
    findings = []
    count_of = dict(faults)
    for messages in _kinds(list(count_of)):
        if len(messages) == 1:
            findings.append(Finding(split, True, messages[0], count=count_of[messages[0]]))
        else:
            findings += findings_about(split, "annotations that cannot be used", messages, broken=True)
    return samples, findings + [Finding(split, False, note) for note in (samples.notes if samples is not None else ())]


def _kinds(messages: Sequence[str]) -> list[list[str]]:
    """Groups messages that differ only in names and numbers."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for message in messages:
        kinds[_PARTICULARS.sub("", message)].append(message)
    return list(kinds.values())


def _findings(
    summaries: Sequence[ImageSummary],
    samples: AnnotatedSet | ClipSet,
    maps: Mapping[str, Sequence[Named]],
    split: Split,
    queries: _Queries,
    task: Task,
    unit: Unit,
) -> list[Finding]:
    whole = [summary for summary in summaries if summary.problem is None]
    things = "class" if task == "semantic" else "object"
    found: list[Finding] = []

    def add(message: str, offenders: Sequence[str], broken: bool = False) -> None:
        found.extend(findings_about(split, message, offenders, broken=broken))

    for problems in _kinds([summary.problem for summary in summaries if summary.problem is not None]):
        add(f"{unit}s that cannot be used", problems, broken=True)
    if isinstance(samples, ClipSet):
        if not samples.has_ground_truth and split == "train":
            found.append(Finding(split, True, "the training clips have no 'annotations' to learn from"))
        tracks = enumerate(() if samples.num_objects is None else samples.num_objects.tolist())
        crowded = [f"{samples.image_id(index)}: {count}" for index, count in tracks if count > queries.number]
        add(f"clips with more tracks than the model has queries ({queries.number})", crowded)
    add(f"{unit}s without {things}", [summary.name for summary in whole if not len(summary.labels)])
    add(
        f"{unit}s with objects without pixels",
        [f"{summary.name}: {np.count_nonzero(summary.areas == 0)}" for summary in whole if (summary.areas == 0).any()],
    )
    add(f"{unit}s with objects that are annotated twice", [f"{f.name}: {f.twice}" for f in whole if f.twice])
    by_count = sorted(((len(summary.labels), summary.name) for summary in whole), key=lambda pair: -pair[0])
    crowded = [f"{name}: {count}" for count, name in by_count if count > queries.number and not queries.is_tiled]
    add(f"{unit}s with more objects than the model has queries ({queries.number})", crowded)
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for summary in whole:
        by_digest[summary.digest].append(summary.name)
    add(f"{unit}s that occur several times", [" = ".join(names) for names in by_digest.values() if len(names) > 1])
    for message, examples in counted(note for summary in summaries for note in summary.notes).items():
        add(message, examples)
    used = {label for summary in whole for label in np.unique(summary.labels).tolist()}
    if not isinstance(samples, LabelFolder):
        absent = [item.name for index, item in enumerate(samples.categories) if index not in used]
        add(f"classes without any {'pixel' if task == 'semantic' else 'object'}", absent)
    # If no image can be used, that is the fault, and what is missing is its consequence.
    for name, part in parts_of(samples):
        if isinstance(part, LabelFolder):
            shown = label_findings(maps[name], part, split) if whole else palette_findings(maps[name], split)
            found += _named(shown, name)
    counts = samples.num_objects if isinstance(samples, ClipSet) else None
    is_empty = not used or (counts is not None and not counts.any())  # masks of clips may have no pixels
    is_said = any(finding.message.startswith(_NOTHING) for finding in found)
    if whole and is_empty and samples.has_ground_truth and not is_said:
        found.append(Finding(split, True, _NOTHING))
    return found


def _maps_of_parts(samples: AnnotatedSet | ClipSet, summaries: Sequence[ImageSummary]) -> dict[str, list[Named]]:
    """The contents of label maps by the name of the part, which is empty where the data set is not mixed."""
    lengths = {name: len(part) if name else len(summaries) for name, part in parts_of(samples)}
    ends = itertools.accumulate(lengths.values())
    return {
        name: [(found.name, found.counts) for found in summaries[end - length : end] if found.counts is not None]
        for (name, length), end in zip(lengths.items(), ends, strict=True)
    }


def _named(findings: Iterable[Finding], part: str) -> list[Finding]:
    return [replace(finding, message=f"{part}: {finding.message}" if part else finding.message) for finding in findings]


def _darkens(augmentation: AugmentationConfig) -> bool:
    """Whether values are subtracted from all images alike."""
    if not isinstance(augmentation, ResizeCropFlipConfig):
        return False
    return augmentation.color_jitter and augmentation.exposure is None


def _dark_findings(summaries: Sequence[ImageSummary], split: Split, unit: Unit) -> list[Finding]:
    dark = [f"{summary.name}: {summary.white}" for summary in summaries if summary.is_dark]
    message = (
        f"dark {unit}s (99.98 % of the values are below {DARK} of 255; the colour jitter of resize-crop-flip "
        "subtracts up to 32, unless data.augmentation.exposure is set, for example to [0.15, 1.0])"
    )
    return findings_about(split, message, dark)


def _small_findings(summaries: Sequence[ImageSummary], split: Split, unit: Unit, least: int) -> list[Finding]:
    """Objects that a model with this ``min_area`` leaves out."""
    counts = [(summary.name, np.count_nonzero((summary.areas > 0) & (summary.areas < least))) for summary in summaries]
    message = f"{unit}s with objects below {least} pixels, which model.inference.min_area leaves out of predictions"
    return findings_about(split, message, [f"{name}: {count}" for name, count in counts if count])


def _leaks(digests: dict[Split, dict[bytes, str]], unit: Unit) -> list[Finding]:
    training, validation = (digests.get(split, {}) for split in _SPLITS)
    both = [f"{name} = {training[digest]}" for digest, name in validation.items() if digest in training]
    return findings_about("validation", f"{unit}s that are also training data", both)
