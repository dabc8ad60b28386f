"""What a data set must be like for training to learn, and evaluation to measure, what is intended.

One list for ``check-data``, ``train`` and ``evaluate``: the first reads all images; the others check what can be
checked without reading them, and some label maps. Reads no images itself. Clips are checked like images.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mask2former.data.annotated import AnnotatedSet, DataSet
from mask2former.data.clips import ClipSet
from mask2former.data.datasets.annotation_files import repeated, some
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.reader import Reader
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.label_maps import LabelCounts, Palettes
from mask2former.data.mixed import Mixed, parts_of
from mask2former.data.parts import Part
from mask2former.data.sequence import spread_indices
from mask2former.errors import UserError
from mask2former.media.folders import list_folder
from mask2former.media.images import IMAGE_SUFFIXES
from mask2former.structures.categories import Categories

__all__ = [
    "Finding",
    "Named",
    "Split",
    "between_findings",
    "class_findings",
    "findings_about",
    "id_findings",
    "label_findings",
    "palette_findings",
    "require",
    "split_findings",
    "unlisted_findings",
]

Named = tuple[str, LabelCounts]  # a label map and what it contains

_NAMED = 20  # offenders that are listed; more are counted
_MUCH = 0.05  # share of pixels from which an ignored number may well be a missing class
_SAMPLED_MAPS = 100  # at most this many label maps where not all are read
_PIXELS = 50_000_000  # of them
_STRAY = 0.01  # of the pixels of an ignored number; a class with fewer, all of them isolated, may be a slip
_THIN = 50  # pixels; a class with fewer may consist of edges only


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a split or a run file.

    Attributes:
        broken: whether training or evaluation would fail because of it, or silently lose data.
        message: the finding, as a phrase.
        offenders: some of the items that it is about.
        count: the number of all of them; 0 where it is about the split as a whole.
    """

    split: Split | Literal["run"]
    broken: bool
    message: str
    offenders: tuple[str, ...] = ()
    count: int = 0

    def sentence(self, most: int = _NAMED) -> str:
        """For people, with up to ``most`` offenders."""
        shown = self.offenders[:most]
        more = self.count - len(shown)
        listed = "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
        return f"{self.split}: {self.message}" + (f" ({self.count}): {listed}" if shown else "")


def findings_about(split: Split, message: str, offenders: Sequence[object], *, broken: bool = False) -> list[Finding]:
    """One finding about these items, of which some are listed; none where there are no items."""
    shown = tuple(map(str, offenders[:_NAMED]))
    return [Finding(split, broken, message, shown, len(offenders))] if offenders else []


def require(findings: Sequence[Finding]) -> list[str]:
    """The notes among the findings, as sentences.

    Raises:
        UserError: something is broken.
    """
    if broken := [finding for finding in findings if finding.broken]:
        more = f"; and {len(broken) - 1} more faults, see mask2former check-data" if len(broken) > 1 else ""
        raise UserError(f"{broken[0].sentence(1)}{more}")
    return [finding.sentence(5) for finding in findings]


def split_findings(samples: DataSet, split: Split, *, measured_only: bool = False) -> list[Finding]:
    """What can be checked in a split without reading it: classes, objects, and some of its label maps.

    Args:
        samples: its images or clips; those of test sets, which have no annotations, need not have objects.
        split: which split it is.
        measured_only: no model is trained: data without objects yield no metrics, but may yield results.

    Raises:
        UserError: one of the label maps that are read is missing or broken.
    """
    if isinstance(samples, Mixed):
        return _mixed_findings(samples, split, measured_only=measured_only)
    findings = class_findings(samples.categories, split)
    if _is_empty(samples):
        message = "; ".join(["nothing is annotated", *samples.notes])  # objects that were left out may be the reason
        findings.append(Finding(split, not measured_only, message))
    if isinstance(samples, LabelFolder):
        maps = _some_maps(samples, split)
        findings += _unknown_findings(maps, samples, split)
        # Sample notes say nothing new about what no sample shows.
        findings += [finding for finding in label_findings(maps, samples, split) if finding.broken]
        findings += _never_beside_findings(maps, samples, split)
    return findings


def _is_empty(samples: DataSet) -> bool:
    counts = samples.num_objects if samples.has_ground_truth else None
    return counts is not None and not counts.sum()


def _mixed_findings(samples: Mixed, split: Split, *, measured_only: bool) -> list[Finding]:
    """Those of each part; a part may consist of images without objects, as long as another part has some."""
    findings = []
    for name, part in samples.named():
        whole = part.whole if isinstance(part, Part) else part
        found = split_findings(whole, split, measured_only=measured_only or not _is_empty(samples))
        findings += [replace(finding, message=f"{name}: {finding.message}") for finding in found]
    return findings


def class_findings(categories: Categories, split: Split) -> list[Finding]:
    """Names that several classes share, by which metrics and models match classes, or that are spelled differently."""
    twice = [f"'{name}'" for name in repeated(categories.names)]
    findings = findings_about(split, "several classes have the same name; rename them", twice, broken=True)
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(categories.names):
        spellings[re.sub(r"[\s_-]", "", name.casefold())].append(f"'{name}'")
    alike = [" and ".join(names) for names in spellings.values() if len(names) > 1]
    message = "classes whose names differ only in capitals, spaces or hyphens; if they are one class, rename them"
    return [*findings, *findings_about(split, message, alike)]


def id_findings(samples: AnnotatedSet, split: Split, limit: int | None = None) -> list[Finding]:
    """Images that share an id, as when several files number them from 1: result files cannot tell them apart."""
    twice = repeated(samples.image_id(index) for index in range(len(samples))[:limit])
    message = (
        "several images have the same id, for instance because several annotation files number their images from 1; "
        "evaluate cannot write result files for them (--results, in Python results)"
    )
    return findings_about(split, message, twice)


# --- label maps ------------------------------------------------------------------------------------------------------


def label_findings(maps: Sequence[Named], samples: LabelFolder, split: Split) -> list[Finding]:
    """What the numbers on several label maps show together.

    Args:
        maps: their contents; all maps are expected before a class is reported as having no pixels.
        samples: the data set.
        split: which of its splits.
    """
    if not maps:
        return []
    return [
        *_unseen_findings(maps, samples, split),
        *palette_findings(maps, split),
        *_thin_findings(maps, samples, split),
        *_never_beside_findings(maps, samples, split),
    ]


def _totals(counts: Iterable[Mapping[int, int]]) -> Counter[int]:
    pixels = Counter[int]()
    for count in counts:
        pixels.update(count)
    return pixels


def _unseen_findings(maps: Sequence[Named], samples: LabelFolder, split: Split) -> list[Finding]:
    """Classes without a pixel, and whether an ignored number may be one of them."""
    pixels, categories = _totals(counts.pixels for _, counts in maps), samples.categories
    total = sum(pixels.values())
    painted = {index: number for number, index in samples.class_of.items() if index < len(categories)}
    seen = {index for index, number in painted.items() if pixels[number]}
    absent = [item.name for index, item in enumerate(categories) if index not in seen]
    ignored = [(pixels[number] / total, number) for number in _doubtful(samples) if pixels[number]]
    if not seen:
        void = [(pixels[number] / total, number) for number, index in samples.class_of.items() if pixels[number]]
        message = f"nothing is annotated: {_ignored(void)}; check dataset.ignore"
        return [Finding(split, True, message)] if void else []
    share, number = max(ignored, default=(0.0, -1))
    # Isolated stray pixels must not pass for a class where far more pixels are ignored.
    inner = _totals(counts.inner for _, counts in maps)
    stray = {index for index in seen if not inner[painted[index]] and pixels[painted[index]] < _STRAY * pixels[number]}
    seen = seen - stray or seen
    unseen = [item.name for index, item in enumerate(categories) if index not in seen]
    if samples.unseen_classes == "error":
        but = [f"'{categories[index].name}' has {pixels[painted[index]]}" for index in sorted(stray - seen)]
        apart = f" apart from stray ones ({', '.join(but[:3])})" if but else ""
        only = f"'{categories[min(seen)].name}' is the only class with pixels{apart}"
        wrong = None
        if len(seen) == 1 and ignored and unseen:
            wrong = f"{only}, {_ignored(ignored)}; {_number_it(samples, unseen, number)}"
        elif len(seen) == 1 and ignored:
            wrong = (
                f"{only}, {_ignored(ignored)}: there is no other class to distinguish it from; name the rest, too "
                f"('{number} background' in the names file), and remove {number} from dataset.ignore"
            )
        elif len(seen) == 1 and split == "train":
            wrong = f"{only}: there is no other class to distinguish it from; check the label maps and the names file"
        elif unseen and share >= _MUCH and split == "train":  # validation may lack rare classes
            wrong = (
                f"classes without any pixel{apart} ({some(unseen)}), while {_ignored(ignored)}; "
                f"{_number_it(samples, unseen, number)}"
            )
        if wrong is not None:
            keep = "; if this is intended, set dataset.unseen_classes=keep" if unseen else ""
            return [Finding(split, True, wrong + keep)]
    message = "classes without any pixel" + (f" ({_ignored(ignored)})" if ignored else "")
    return findings_about(split, message, absent)


def _never_beside_findings(maps: Sequence[Named], samples: LabelFolder, split: Split) -> list[Finding]:
    """For two classes, one that never occurs on a map with an ignored number: some maps may use that number instead.

    True void, such as borders and doubtful regions, occurs beside annotated classes.
    """
    if len(samples.categories) != 2 or samples.unseen_classes == "keep":
        return []
    findings: list[Finding] = []
    for number, index in samples.class_of.items():
        for void in _doubtful(samples) if index < len(samples.categories) else []:
            indices = [name for name, counts in maps if void in counts.pixels and counts.inner[void]]
            others = [counts for _, counts in maps if number in counts.pixels]
            if indices and others and all(void not in counts.pixels for counts in others):
                name = samples.categories[index].name
                message = (
                    f"label maps that contain {void}, which is ignored, but not '{name}' ({number}), which occurs "
                    f"only on maps without {void} ({len(others)} of them); if {void} means '{name}' there, write "
                    f"{number} instead"
                )
                findings += findings_about(split, message, indices)
    return findings


def _doubtful(samples: LabelFolder) -> list[int]:
    """Ignored numbers that may be meant as classes; not those of colours, which were listed in order to be ignored."""
    if samples.colors is not None:
        return []
    return [number for number, index in samples.class_of.items() if index >= len(samples.categories)]


def _ignored(ignored: Sequence[tuple[float, int]]) -> str:
    """``255, which is ignored, covers 12.3 % of the pixels``."""
    parts = [
        f"{number}, which is ignored, covers {100 * share:.3g} %" for share, number in sorted(ignored, reverse=True)
    ]
    return f"{' and '.join(parts[:3])} of the pixels"


def _number_it(samples: LabelFolder, unseen: Sequence[str], number: int) -> str:
    """How to declare an ignored number as a class."""
    known = {index: value for value, index in samples.class_of.items()}
    lines = [
        f"{number if item.name == unseen[0] else known.get(index, index)} {item.name}"
        for index, item in enumerate(samples.categories)
    ]
    shown = lines if len(lines) < 4 else [line for line in lines if line == f"{number} {unseen[0]}"]
    listed = ", ".join(f"'{line}'" for line in shown)
    return (
        f"if {number} means '{unseen[0]}', give the class that number in the names file (its lines may be {listed}) "
        f"and remove {number} from dataset.ignore"
    )


def palette_findings(maps: Sequence[Named], split: Split, training: Sequence[Named] = ()) -> list[Finding]:
    """Numbers whose colour differs from file to file: they mean different classes there.

    Args:
        maps: the contents of the label maps of a split.
        split: which split it is.
        training: for validation, the maps of the training split; the two are compared, unless one differs within
            itself.
    """
    palettes = Palettes()
    if any([palettes.add(f"train's '{name}'", counts.colors) for name, counts in training]):
        return []
    offenders = [found for name, counts in maps if (found := palettes.add(f"'{name}'", counts.colors)) is not None]
    if not offenders or (training and palette_findings(maps, split)):
        return []
    message = (
        f"label maps whose palettes differ{' from those of train' if training else ''}, so that one number may mean "
        "several classes; save all label maps with the same palette, or as grey PNG if the numbers are right"
    )
    return findings_about(split, message, offenders, broken=True)


def _thin_findings(maps: Sequence[Named], samples: LabelFolder, split: Split) -> list[Finding]:
    pixels, inner = _totals(counts.pixels for _, counts in maps), _totals(counts.inner for _, counts in maps)
    thin = [
        samples.categories[index].name
        for number, index in samples.class_of.items()
        if index < len(samples.categories) and pixels[number] >= _THIN and not inner[number]
    ]
    message = (
        "classes that are nowhere wider than two pixels, like the edges of label maps that were resized with smoothing"
    )
    return findings_about(split, message, thin)


def _unknown_findings(maps: Sequence[Named], samples: LabelFolder, split: Split) -> list[Finding]:
    indices: dict[int, list[str]] = defaultdict(list)
    for name, counts in maps:
        for number in counts.pixels.keys() - samples.class_of.keys():
            indices[number].append(name)
    offenders = [f"{number} in {some(names)}" for number, names in sorted(indices.items())]
    message = "numbers on label maps that are not classes; name them in the names file, or ignore them (dataset.ignore)"
    return findings_about(split, message, offenders, broken=True)


def _some_maps(samples: LabelFolder, split: Split) -> list[Named]:
    """Some label maps of a split; all of them, up to those that decide, where a class seems to be missing."""
    maps = [_read_map(samples, 0)]
    count = min(_SAMPLED_MAPS, max(2, _PIXELS // sum(maps[0][1].pixels.values())))
    chosen = spread_indices(len(samples), count)
    maps += [_read_map(samples, index) for index in chosen if index]
    rest = sorted(set(range(len(samples))) - {0, *chosen})
    while rest and any(finding.broken for finding in _unseen_findings(maps, samples, split)):
        more, rest = rest[: len(maps)], rest[len(maps) :]
        maps += [_read_map(samples, index) for index in more]
    return maps


def _read_map(samples: LabelFolder, index: int) -> Named:
    return str(samples.image_id(index)), samples.counts(index)


# --- both splits -----------------------------------------------------------------------------------------------------


def between_findings(training: AnnotatedSet | ClipSet, validation: AnnotatedSet | ClipSet) -> list[Finding]:
    """What can be checked in both splits together without reading them, apart from some label maps.

    Raises:
        UserError: one of these is missing or broken.
    """
    findings = _leak_findings(training, validation)
    if isinstance(training, LabelFolder) and isinstance(validation, LabelFolder):
        known, maps = (
            [_read_map(samples, index) for index in spread_indices(len(samples), 20)]
            for samples in (training, validation)
        )
        findings += palette_findings(maps, "validation", known)
    return findings


def _leak_findings(training: AnnotatedSet | ClipSet, validation: AnnotatedSet | ClipSet) -> list[Finding]:
    """Files or scenes that are both trained and evaluated on; only ``check-data`` finds copies under other names."""
    used = set(_files(training))
    both: Sequence[object] = [name for name in _files(validation) if name in used]
    message = f"{'frames' if isinstance(validation, ClipSet) else 'images'} that are also training data"
    drawn = [samples for samples in (training, validation) if isinstance(samples, Scenes | SceneClips)]
    if len(drawn) == 2 and type(training) is type(validation):
        ends = (samples.seed + len(samples) for samples in drawn)
        both = range(max(samples.seed for samples in drawn), min(ends))
        message = "scenes that are also training data"
    return findings_about("validation", message, both)


def _files(samples: AnnotatedSet | ClipSet) -> list[str]:
    """The image or frame files that are read; none where they are drawn."""
    if isinstance(samples, Reader):
        return [str(samples.file(index)) for index in range(len(samples))]
    if isinstance(samples, (YouTubeVIS, MaskFolders)):
        return [name for index in range(len(samples)) for name in samples.files(index)]
    return []


def unlisted_findings(splits: Mapping[Split, AnnotatedSet | ClipSet]) -> list[Finding]:
    """Images beside those of a COCO file that no file lists, and that are not used.

    Folders that contain images of both splits may contain those of a third, so nothing is reported for them.
    """
    listed: dict[Split, set[Path]] = {
        split: {
            Path(os.path.abspath(path))
            for _, part in parts_of(samples)
            if isinstance(part, CocoInstances)
            for path in part.listed
            if isinstance(path, Path)
        }
        for split, samples in splits.items()
    }
    folders = {split: {path.parent for path in paths} for split, paths in listed.items()}
    findings: list[Finding] = []
    for split, paths in listed.items():
        others = {folder for other, held in folders.items() if other != split for folder in held}
        beside = sorted(
            str(path)
            for folder in folders[split] - others
            for path in list_folder(folder)
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path not in paths
        )
        message = "images that the annotation file does not list and that are therefore not used"
        findings += findings_about(split, message, beside)
    return findings
