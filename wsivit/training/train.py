"""Fine-tune a classifier on labelled tiles, or pictures."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from wsivit.io import LEARNING, TEMPORARY, LocalFiles, scrub, versions
from wsivit.models import CONTRACT, RunMetadata
from wsivit.training.options import TrainOptions

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from wsivit.models import Classifier
    from wsivit.training.trainer import Recipe, TileTrainer, TrainingResult

log = logging.getLogger(__name__)

COSTS = ("seconds_per_epoch", "memory_mb")
CHECKPOINTS, SPLIT, TILES = "checkpoints", "split.csv", "tiles"


@dataclass(frozen=True)
class RunResult:
    """What a training made.

    Attributes
    ----------
    folder : Path
        The run folder.
    contract : RunMetadata
    validation : dict of str to float
        Held-out ``accuracy``, ``balanced_accuracy`` and ``loss`` of the epoch that was kept, and which that was; and
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
        """The figures of the held-out part alone, without what the training cost."""
        return {name: value for name, value in self.validation.items() if name not in COSTS}


def train(
    data: Sequence[str | os.PathLike[str]],
    *,
    model: str,
    output: str | os.PathLike[str],
    label: str | None = None,
    options: TrainOptions = TrainOptions(),
    slides: SlideOptions = SlideOptions(),
    progress: bool = False,
) -> RunResult:
    """Fine-tune a ViT or ResNet on labelled tiles of slides, or on folders of pictures.

    A part is held out to measure on, chosen so that no patient (within one slide: no overlapping or neighbouring tile)
    is on both sides; data that come with a split keep it. The epoch with the least held-out loss is kept. Killed and
    run again, it goes on after the last whole epoch, exactly as if it had not been broken off.

    Parameters
    ----------
    data : sequence of path
        Tile stores, slides with annotations beside them, folders of either, or a cohort table (``.csv``: slide_id,
        path, patient, site, split, labels); or an image folder, food-101 in torchvision's layout, ``food101`` or
        ``hf:<id>``.
    model : str
        A timm name (``vit_small_patch16_224.augreg_in21k``, ``resnet50.a1_in1k``), a hub id
        (``google/vit-base-patch16-224-in21k``, ``microsoft/resnet-50``), or a model folder.
    output : path
        The run folder to make.
    label : str, optional
        Label column of the stores or the table. Default: of slides ``region`` (their annotations), of a table its
        column ``label``; folders of pictures need none.
    options : TrainOptions
        Epochs, learning rate, split, augmentation.
    slides : SlideOptions
        Scale and tile size where the data are slides, whose pixels are read as they are needed.
    progress : bool
        Show a progress bar.

    Returns
    -------
    RunResult

    Raises
    ------
    UsageError
        Unknown label or model, one class only, no possible split, or a split that leaks.
    StoreError
        A store is damaged, empty, or of another scale or tile size than the first.
    OutputExistsError
        The run folder is there and is not this run broken off.
    """
    folder = Path(output)
    _require_free(folder)
    from wsivit.models import require_image_size

    require_image_size(model, options.image_size)  # before slides are tiled for hours
    samples = load_samples(data, label, side=_picture_side(options), tiler=SlideTiler(folder / TILES, slides))
    options = options.resolved(of_slides=any(source.patient for source in samples.sources))
    _tell_unlabelled(samples)
    split = _split(samples, options)
    audited = _audit(samples, split, options)

    from wsivit.training.arguments import make_arguments
    from wsivit.training.trainer import run_training

    classifier = _classifier(model, samples, options)
    contract = _contract(model, samples, split, classifier, options, audited)
    arguments = make_arguments(folder / CHECKPOINTS, options, len(split.of(TRAIN)), samples.size)
    # Of several processes (torchrun) the first alone writes; the others find what it wrote.
    with arguments.main_process_first(local=False):
        checkpoint = _begin(folder, contract)
    if arguments.process_index == 0:
        write_split(folder / SPLIT, samples, split)
    trainer = _trainer(classifier, samples, split, arguments, options)
    outcome = run_training(trainer, folder, progress=progress, checkpoint=checkpoint, warnings=audited["warnings"])
    counts = _counts(samples, split)
    _warn_if_below_baseline(outcome.validation, counts[SIDES[VALIDATION]])
    if arguments.process_index == 0:
        contract = _finish(folder, contract, classifier, outcome, counts)
    return RunResult(folder, contract, outcome.validation, counts)


def model_card(result: RunResult) -> str:
    """Say in Markdown what the model is, what it was made for, and how well it did."""
    run = result.contract
    rows = [f"| {side} | " + " | ".join(str(n) for n in per.values()) + " |" for side, per in result.counts.items()]
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in result.held_out.items())
    scale = "any scale" if run.mpp is None else f"{run.mpp:.4g} microns per pixel"
    leaks = "".join(f"\n- **Leak, allowed on request:** {leak}" for leak in run.split["leaks"])
    leaks += "".join(f"\n- **Warning:** {warning}" for warning in run.split["warnings"])
    return f"""---
library_name: {"timm" if "/" not in run.model else "transformers"}
pipeline_tag: image-classification
tags: [histopathology, whole-slide-imaging, wsivit]
---
# {result.folder.name}

`{run.model}`, trained by wsivit {run.versions["wsivit"]} to tell {", ".join(run.classes)} (label `{run.label}`).

- **Input:** tiles of {run.tile_size} x {run.tile_size} px at {scale}, resized to {run.preprocessing.image_size} px.
- **Held out:** {figures}. {run.split["how"].capitalize()}.{leaks}
- **Sources:** {len(run.data)} ({", ".join(source["id"] for source in run.data[:10])}).

| tiles | {" | ".join(run.classes)} |
|---|{"---|" * len(run.classes)}
{chr(10).join(rows)}

Figures on held-out parts of the slides trained on say little about slides of other patients, scanners and stains.
Not a medical device.

```
wsivit predict {result.folder.name} slide.svs
```
"""


def _picture_side(options: TrainOptions) -> int:
    """Bring pictures of folders to a little more than the model's input, so that there is something to crop."""
    return PICTURE_SIDE if options.image_size is None else -(-options.image_size * 8 // 7)


def _split(samples: Samples, options: TrainOptions) -> Split:
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


def _audit(samples: Samples, split: Split, options: TrainOptions) -> dict[str, list[str]]:
    """Refuse leaks, unless they are allowed; tell what else looks wrong; return both, to be recorded."""
    leaks = check_leakage(samples, split, allow=options.allow_leakage)
    warnings = warnings_of(samples, split)
    for warning in warnings:
        log.warning("%s", warning)
    return {"leaks": leaks, "warnings": warnings}


def _contract(
    model: str,
    samples: Samples,
    split: Split,
    classifier: Classifier,
    options: TrainOptions,
    audited: dict[str, list[str]],
) -> RunMetadata:
    return RunMetadata(
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
            **audited,
            "file": SPLIT,
        },
        options=options.recorded(),
        versions=versions(LEARNING),
        command=[Path(sys.argv[0]).name, *map(scrub, sys.argv[1:])],
    )


def _counts(samples: Samples, split: Split) -> dict[str, dict[str, int]]:
    present = [side for side in SIDES if (split.side == side).any()]
    return {SIDES[side]: samples.take(split.of(side)).counts() for side in present}


def _provenance(samples: Samples, split: Split) -> list[dict[str, Any]]:
    """What each source gave to which side; names and fingerprints, no folders of this machine."""
    found: list[dict[str, Any]] = []
    first = min(SIDES)
    counts = samples.count_per_source(split.side.astype(np.int64) - first, len(SIDES))
    for source, of in zip(samples.sources, counts.tolist(), strict=True):
        sides = {SIDES[first + place]: count for place, count in enumerate(of) if count}
        about = {"id": source.id, "fingerprint": source.fingerprint, "mpp": source.mpp, "downscale": source.downscale}
        found.append({**about, **sides})
    return found


def _classifier(model: str, samples: Samples, options: TrainOptions) -> Classifier:
    from transformers import set_seed

    from wsivit.models import create_classifier

    set_seed(options.seed)
    return create_classifier(
        model,
        samples.classes,
        pretrained=options.pretrained,
        image_size=options.image_size,
        weights=options.weights,
    )


def _require_free(folder: Path) -> None:
    """Refuse a folder that holds a finished run, or anything that a run broken off would not leave."""
    if (folder / CONTRACT).is_file():
        if RunMetadata.read(folder).done:
            raise OutputExistsError(f"{folder}: there is a finished run already; choose another output folder")
    elif folder.exists() and not (folder.is_dir() and all(_left_behind(entry.name) for entry in folder.iterdir())):
        raise OutputExistsError(f"{folder}: is there already and is no run; choose another output folder")


def _left_behind(name: str) -> bool:
    """Whether a run that was broken off before it had a contract may have left a file or folder of this name."""
    return name == TILES or name.startswith(TEMPORARY)


def _begin(folder: Path, contract: RunMetadata) -> str | None:
    """Write the contract of a run that begins; return the last checkpoint of one that was broken off."""
    LocalFiles(folder).remove_temporaries()
    if (folder / CONTRACT).is_file():
        other = RunMetadata.read(folder).differences(contract)
        if other:
            raise OutputExistsError(
                f"{folder}: there is another unfinished run: {'; '.join(other)}; choose another output folder"
            )
        from wsivit.training.checkpoints import last_whole

        return last_whole(folder / CHECKPOINTS)
    folder.mkdir(parents=True, exist_ok=True)
    contract.write(folder)
    return None


def _finish(
    folder: Path,
    contract: RunMetadata,
    classifier: Classifier,
    outcome: TrainingResult,
    counts: dict[str, dict[str, int]],
) -> RunMetadata:
    """Write the model and what is to be known of it; last the contract, which says that it is done."""
    from wsivit.models import save_classifier

    done = replace(
        contract,
        model_fingerprint=save_classifier(classifier, folder),
        temperature=fit_temperature(outcome.logits, outcome.codes),
        validation=outcome.validation,
    )
    spec = model_card(RunResult(folder, done, outcome.validation, counts))
    LocalFiles(folder).write("README.md", [spec.encode()])
    done.write(folder)
    return done


def _trainer(
    classifier: Classifier, samples: Samples, split: Split, arguments: TrainingArguments, options: TrainOptions
) -> TileTrainer:
    from wsivit.data import TileDataset
    from wsivit.training.trainer import TileTrainer

    train_set, held_out = (TileDataset(samples.take(split.of(side))) for side in (TRAIN, VALIDATION))
    trainer = TileTrainer(classifier, _recipe(options), arguments, train_set, held_out)
    log.info("learning from %s; %s", _listed(train_set.samples.counts()), trainer.balance)
    return trainer


def _tell_unlabelled(samples: Samples) -> None:
    # An index has labelled tiles only, and to count the others would open every store of it.
    stores = [source for source in samples.sources if isinstance(source, StoreSource)]
    readable = sum(len(source.store.readable) for source in stores if not isinstance(source, IndexedSource))
    if readable > len(samples):
        log.info("%d of %d tiles have no label and are left out", readable - len(samples), readable)


def _warn_if_below_baseline(measured: Mapping[str, float], held_out: Mapping[str, int]) -> None:
    held_out = {name: n for name, n in held_out.items() if n}
    commonest = max(held_out, key=lambda name: held_out[name])
    share, chance = held_out[commonest] / sum(held_out.values()), 1 / len(held_out)
    if measured["accuracy"] <= share and measured["balanced_accuracy"] <= chance + 0.02:
        log.warning(
            "on what was held out the model is no better (accuracy %.3f) than always saying %s (%.3f): what may help is"
            " more epochs, weights to start from, more slides",
            measured["accuracy"],
            commonest,
            share,
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _recipe(options: TrainOptions) -> Recipe:
    from wsivit.training.trainer import Recipe

    assert options.layer_decay is not None
    return Recipe(
        augment=options.augment,
        label_smoothing=options.label_smoothing,
        freeze=options.freeze,
        layer_decay=options.layer_decay,
        mixup=options.mixup,
        cutmix=options.cutmix,
        ema=options.ema,
        balance=options.balance,
        patience=options.patience,
    )
