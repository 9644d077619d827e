"""Fine-tune a classifier on labelled tiles, or pictures."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsivit._keywords import options_as_keywords
from wsivit.data import (
    PICTURE_SIDE,
    SIDES,
    TRAIN,
    VALIDATION,
    IndexedSource,
    Samples,
    SlideOptions,
    SlideTiler,
    Split,
    StoreSource,
    check_leakage,
    load_samples,
    official_split,
    read_split,
    split_samples,
    warnings_of,
    write_split,
)
from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation import fit_temperature
from wsivit.io import LEARNING, TEMPORARY, LocalFiles, require_main_guard, scrub, versions
from wsivit.models import CONTRACT, RunMetadata
from wsivit.slide_list import Sources
from wsivit.training.options import TrainOptions

log = logging.getLogger(__name__)

COSTS = ("seconds_per_epoch", "memory_mb")
CHECKPOINTS, SPLIT, TILES = "checkpoints", "split.csv", "tiles"


@dataclass(frozen=True)
class RunResult:
    """The result of a training.

    Attributes
    ----------
    folder : Path
        The run folder.
    contract : RunMetadata
    validation : dict of str to float
        Validation ``accuracy``, ``balanced_accuracy`` and ``loss`` of the epoch that was kept, and which that was; and
        what the training cost: ``seconds_per_epoch`` and, at most, ``memory_mb``.
    counts : dict of str to dict
        Tiles per class, per side of the split.
    """

    folder: Path
    contract: RunMetadata
    validation: dict[str, float]
    counts: dict[str, dict[str, int]]

    @property
    def held_out(self) -> dict[str, float]:
        """The metrics of the validation part alone, without what the training cost."""
        return {name: value for name, value in self.validation.items() if name not in COSTS}


@options_as_keywords
def train(
    data: Sources,
    *,
    model: str,
    output: str | os.PathLike[str],
    label: str | None = None,
    options: TrainOptions = TrainOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
    **keywords: Any,
) -> RunResult:
    """Fine-tune a ViT or ResNet on labelled tiles of slides, or on folders of pictures.

    A part is held out to measure on, chosen so that no patient (within one slide: no overlapping or neighbouring tile)
    is on both sides; data that come with a split keep it. The epoch with the least validation loss is kept. An
    interrupted run resumes after its last complete epoch, and ends with the weights of an uninterrupted one.

    Parameters
    ----------
    data : path or TileStore, or several
        Tile stores, slides with annotations next to them, folders of either, or a cohort table (``.csv``: slide_id,
        path, patient, site, split, labels); or an image folder, food-101 in torchvision's layout, ``food101`` or
        ``hf:<id>``.
    model : str
        A timm name (``vit_small_patch16_224.augreg_in21k``, ``resnet50.a1_in1k``), a hub id
        (``google/vit-base-patch16-224-in21k``, ``microsoft/resnet-50``), or a model folder.
    output : path
        The run folder to write.
    label : str, optional
        Label column of the stores or the table. Default: of slides ``region`` (their annotations), of a table its
        column ``label``; folders of pictures need none.
    options : TrainOptions
        Epochs, learning rate, split, augmentation.
    slides : SlideOptions
        Scale and tile size where the data are slides, whose pixels are read when they are needed.
    progress : bool
        Show a progress bar.
    **keywords
        The fields of `options` and `slides`, in their place.

    Returns
    -------
    RunResult

    Raises
    ------
    UsageError
        Unknown label or model, no such device, one class only, no possible split, or a split that leaks.
    StoreError
        A store is damaged, empty, or of another scale or tile size than the first.
    OutputExistsError
        The run folder exists and is not this run, interrupted.
    """
    folder = Path(output)
    _check_output(folder)
    # Forked workers, Linux's default before Python 3.14, do not import the caller's script.
    if options.worker_count and multiprocessing.get_start_method() != "fork":
        require_main_guard()
    # Loading torch takes seconds, which commands of other verbs that import this module can do without.
    from transformers import set_seed

    from wsivit.data import TileDataset
    from wsivit.models import create_classifier, require_image_size, save_classifier
    from wsivit.training.arguments import check_machine, make_arguments
    from wsivit.training.trainer import TileTrainer, run_training

    # What can be refused is refused before slides are tiled for hours.
    require_image_size(model, options.image_size)
    device = check_machine(options)

    # Pictures of folders are loaded a little larger than the model's input, so that there is something to crop.
    side = PICTURE_SIDE if options.image_size is None else -(-options.image_size * 8 // 7)
    samples = load_samples(data, label, side=side, tiler=SlideTiler(folder / TILES, slides))
    _log_unlabelled(samples)
    options = options.resolved(of_slides=any(source.patient for source in samples.sources))
    split = _split(samples, options)
    leaks = check_leakage(samples, split, allow=options.allow_leakage)
    warnings = warnings_of(samples, split)
    for warning in warnings:
        log.warning("%s", warning)

    set_seed(options.seed)
    classifier = create_classifier(
        model,
        samples.classes,
        pretrained=options.pretrained,
        image_size=options.image_size,
        weights=options.weights,
    )
    contract = RunMetadata(
        model=model,
        classes=samples.classes,
        label=samples.label,
        mpp=samples.mpp,
        tile_size=samples.size,
        preprocessing=classifier.preprocessing,
        data=_provenance(samples, split),
        split={
            "how": split.how,
            "by": split.by,
            "other_regions": [SIDES[side] for side in split.by_region],
            "leaks": leaks,
            "warnings": warnings,
            "file": SPLIT,
        },
        options=options.recorded(),
        versions=versions(LEARNING),
        command=[Path(sys.argv[0]).name, *map(scrub, sys.argv[1:])],
    )

    arguments = make_arguments(folder / CHECKPOINTS, options, len(split.of(TRAIN)), samples.size)
    # Of several processes (torchrun) the first alone writes; the others read what it wrote.
    with arguments.main_process_first(local=False):
        checkpoint = _begin_or_resume(folder, contract)
    is_first = arguments.process_index == 0
    if is_first:
        write_split(folder / SPLIT, samples, split)
    train_set, validation_set = (TileDataset(samples.take(split.of(side))) for side in (TRAIN, VALIDATION))
    trainer = TileTrainer(classifier, options, arguments, train_set, validation_set)
    counted = ", ".join(f"{n} {name}" for name, n in train_set.samples.counts().items())
    log.info("learning from %s; %s", counted, trainer.balance)
    log.info("training on %s in %s", device, "bfloat16, weights in float32" if arguments.bf16 else "float32")
    outcome = run_training(trainer, folder, progress=progress, checkpoint=checkpoint, warnings=warnings)

    present = [side for side in SIDES if (split.side == side).any()]
    counts = {SIDES[side]: samples.take(split.of(side)).counts() for side in present}
    _warn_if_below_baseline(outcome.validation, counts[SIDES[VALIDATION]])
    if is_first:
        contract = replace(
            contract,
            model_fingerprint=save_classifier(classifier, folder),
            temperature=fit_temperature(outcome.logits, outcome.codes),
            validation=outcome.validation,
        )
        card = model_card(RunResult(folder, contract, outcome.validation, counts))
        LocalFiles(folder).write("README.md", [card.encode()])
        contract.write(folder)  # last: with its fingerprint the run counts as finished
    return RunResult(folder, contract, outcome.validation, counts)


def _check_output(folder: Path) -> None:
    """Refuse a folder that holds a finished run, or anything that an interrupted run does not leave."""
    if (folder / CONTRACT).is_file():
        if RunMetadata.read(folder).done:
            raise OutputExistsError(f"{folder} holds a finished run; choose another output folder")
        return
    # A run that was interrupted before it had a contract leaves these.
    expected = folder.is_dir() and all(
        entry.name == TILES or entry.name.startswith(TEMPORARY) for entry in folder.iterdir()
    )
    if folder.exists() and not expected:
        raise OutputExistsError(f"{folder} exists and is no run; choose another output folder")


def _begin_or_resume(folder: Path, contract: RunMetadata) -> str | None:
    """Write the contract of a new run; return the last checkpoint of an interrupted one."""
    LocalFiles(folder).remove_temporaries()
    if (folder / CONTRACT).is_file():
        other = RunMetadata.read(folder).differences(contract)
        if other:
            raise OutputExistsError(
                f"{folder} holds another unfinished run: {'; '.join(other)}; choose another output folder"
            )
        from wsivit.training.checkpoints import last_complete

        return last_complete(folder / CHECKPOINTS)
    folder.mkdir(parents=True, exist_ok=True)
    contract.write(folder)
    return None


def _log_unlabelled(samples: Samples) -> None:
    # An index has labelled tiles only, and to count the others would open every store of it.
    stores = [s for s in samples.sources if isinstance(s, StoreSource) and not isinstance(s, IndexedSource)]
    readable = sum(len(source.store.readable) for source in stores)
    if readable > len(samples):
        log.info("%d of %d tiles have no label and are left out", readable - len(samples), readable)


def _split(samples: Samples, options: TrainOptions) -> Split:
    """Split by the file that is given, as the data come, or by the options; check that both sides can be used."""
    if options.split is not None:
        split = read_split(options.split, samples, options.split_by)
    elif samples.side is not None:
        split = official_split(samples, options.holdout, by=options.split_by, seed=options.seed)
    else:
        fold = None if options.folds is None else (options.fold, options.folds)
        split = split_samples(samples, options.holdout, by=options.split_by, seed=options.seed, fold=fold)
    if not len(split.of(VALIDATION)):
        raise UsageError(f"{split.how}: nothing is held out to measure on")
    learned = set(samples.code[split.of(TRAIN)].tolist())
    missing = [name for code, name in enumerate(samples.classes) if code not in learned]
    if missing:
        raise UsageError(f"{split.how}: no training picture is {' or '.join(missing)}, but held-out ones are")
    return split


def _provenance(samples: Samples, split: Split) -> list[dict[str, Any]]:
    """Count what each source gives to which side; names and fingerprints, no folders of this machine."""
    provenance: list[dict[str, Any]] = []
    first = min(SIDES)
    counts = samples.count_per_source(split.side.astype(np.int64) - first, len(SIDES))
    for source, per_side in zip(samples.sources, counts.tolist(), strict=True):
        sides = {SIDES[first + place]: count for place, count in enumerate(per_side) if count}
        about: dict[str, Any] = {
            "id": source.id,
            "fingerprint": source.fingerprint,
            "mpp": source.mpp,
            "downscale": source.downscale,
        }
        if isinstance(source, StoreSource):
            # Where its tiles lie, so that predictions of the same tissue, tiled in any way, can say that it was seen.
            side0 = [source.size * scale for scale in (source.grid.downsample_x, source.grid.downsample_y)]
            about |= {"stride0": list(source.grid.stride0), "side0": side0}
        provenance.append({**about, **sides})
    return provenance


def _warn_if_below_baseline(measured: Mapping[str, float], held_out: Mapping[str, int]) -> None:
    held_out = {name: n for name, n in held_out.items() if n}
    commonest = max(held_out, key=lambda name: held_out[name])
    share, chance = held_out[commonest] / sum(held_out.values()), 1 / len(held_out)
    if measured["accuracy"] <= share and measured["balanced_accuracy"] <= chance + 0.02:
        log.warning(
            "on the validation part the model is no better (accuracy %.3f) than always answering %s (%.3f): "
            "more epochs, pretrained weights or more slides may help",
            measured["accuracy"],
            commonest,
            share,
        )


def model_card(result: RunResult) -> str:
    """Describe in Markdown what the model is, what it is for, and how well it did."""
    run = result.contract
    rows = [f"| {side} | " + " | ".join(str(n) for n in per.values()) + " |" for side, per in result.counts.items()]
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in result.held_out.items())
    if run.mpp is None:  # pictures, which are of no slide
        what, tags, also = "pictures", "wsivit", f"wsivit evaluate {result.folder.name} folder-of-pictures"
        given = f"pictures, cropped to their middle square and brought to {run.tile_size} px"
        caution = "Figures on held-out pictures say little about pictures of other origin."
    else:
        what, tags, also = (
            "tiles",
            "histopathology, whole-slide-imaging, wsivit",
            f"wsivit predict {result.folder.name} slide.svs",
        )
        given = f"tiles of {run.tile_size} x {run.tile_size} px at {run.mpp:.4g} microns per pixel"
        caution = (
            "Figures on held-out parts of the slides trained on say little about slides of other patients, scanners "
            "and stains.\nNot a medical device."
        )
    leaks = "".join(f"\n- **Leak, allowed on request:** {leak}" for leak in run.split["leaks"])
    leaks += "".join(f"\n- **Warning:** {warning}" for warning in run.split["warnings"])
    return f"""---
library_name: {"timm" if "/" not in run.model else "transformers"}
pipeline_tag: image-classification
tags: [{tags}]
---
# {result.folder.name}

`{run.model}`, trained by wsivit {run.versions["wsivit"]} to tell {", ".join(run.classes)} (label `{run.label}`).

- **Input:** {given}, resized to {run.preprocessing.image_size} px.
- **Held out:** {figures}. {run.split["how"].capitalize()}.{leaks}
- **Sources:** {len(run.data)} ({", ".join(source["id"] for source in run.data[:10])}).

| {what} | {" | ".join(run.classes)} |
|---|{"---|" * len(run.classes)}
{chr(10).join(rows)}

{caution}

```
{also}
```
"""
