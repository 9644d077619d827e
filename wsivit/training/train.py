"""Train a classifier on labelled tiles, or pictures: fine-tune a network, or fit a linear head on stored features."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsivit._keywords import options_as_keywords
from wsivit.data import (
    PICTURE_SIDE,
    SIDES,
    TEST,
    TRAIN,
    Samples,
    SlideOptions,
    SlideTiler,
    load_samples,
    write_split,
)
from wsivit.errors import OutputExistsError, UsageError
from wsivit.evaluation import fit_temperature
from wsivit.inference import ModelRunner, score_samples, stored_logits
from wsivit.io import LEARNING, LocalFiles, require_main_guard, scrub, versions
from wsivit.models import (
    CONTRACT,
    Model,
    ModelSpec,
    Preprocessing,
    RunMetadata,
    find_encoder,
    open_run,
    refuse_other_contents,
)
from wsivit.slide_list import Sources
from wsivit.training.model_card import model_card
from wsivit.training.options import TrainOptions
from wsivit.training.parts import Parts, divide

if TYPE_CHECKING:
    from wsivit.models import Classifier
    from wsivit.training.linear_probe import FittedHead

log = logging.getLogger(__name__)

CHECKPOINTS, SPLIT, TILES = "checkpoints", "split.csv", "tiles"


@dataclass(frozen=True)
class RunResult:
    """The result of a training.

    Attributes
    ----------
    folder : Path
        The run folder.
    contract : RunMetadata
    counts : dict of str to dict
        Tiles per class, per side of the split.
    """

    folder: Path
    contract: RunMetadata
    counts: dict[str, dict[str, int]]

    @property
    def test(self) -> dict[str, float]:
        """Figures of the test part, which chose nothing: ``accuracy``, ``balanced_accuracy``, ``log_loss``, ``ece``."""
        return self.contract.figures["test"]

    @property
    def tune(self) -> dict[str, float]:
        """Figures of the part that chose the epoch and the temperature: too good, and not to be reported."""
        return self.contract.figures["tune"]

    @property
    def costs(self) -> dict[str, float]:
        """What the training cost: ``seconds_per_epoch`` and, at most, ``memory_mb``."""
        return self.contract.figures.get("costs", {})


@options_as_keywords
def train(
    data: Sources,
    *,
    output: str | os.PathLike[str],
    model: str | None = None,
    encoder: str | None = None,
    label: str | None = None,
    options: TrainOptions = TrainOptions(),
    slides: SlideOptions = SlideOptions(),
    force: bool = False,
    progress: bool = False,
    **keywords: Any,
) -> RunResult:
    """Train a classifier on labelled tiles of slides, or on folders of pictures.

    With `model` a ViT or CNN is fine-tuned, from the best linear head on its features; with `encoder` a linear head is
    fitted on features that the stores have, in seconds.

    A test part is held out, chosen so that no patient (within one slide: no overlapping or neighbouring tile) is on
    both sides; data that come with a split keep it. A tune part, chosen alike from the rest, decides which epoch is
    kept and the temperature; the test part decides nothing, and gives the figures that are reported. An interrupted run
    resumes after its last complete epoch, and ends with the weights of an uninterrupted one.

    Parameters
    ----------
    data : path or TileStore, or several
        Tile stores, slides with annotations next to them, folders of either, or a cohort table (``.csv``: slide_id,
        path, patient, site, split, labels); or an image folder, food-101 in torchvision's layout, ``food101`` or
        ``hf:<id>``. With `encoder`: stores, with features.
    output : path
        The run folder to write.
    model : str, optional
        A timm name (``vit_small_patch16_224.augreg_in21k``, ``resnet50.a1_in1k``), a hub id
        (``google/vit-base-patch16-224-in21k``, ``microsoft/resnet-50``), or a model folder.
    encoder : str, optional
        Whose features, kept by ``wsivit features``, a linear head learns from (``uni2-h``).
    label : str, optional
        Label column of the stores or the table. Default: of slides ``region`` (their annotations), of a table its
        column ``label``; folders of pictures need none.
    options : TrainOptions
        Epochs, learning rate, split, augmentation.
    slides : SlideOptions
        Scale and tile size where the data are slides, whose pixels are read when they are needed.
    force : bool
        Replace the run in the folder, finished or not, once all else is checked.
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
        Unknown label or model, no such device, one class only, no possible split, or a split that leaks; stores without
        the encoder's features.
    StoreError
        A store is damaged, empty, or of another scale or tile size than the first.
    OutputExistsError
        The run folder exists and is not this run, interrupted.
    """
    folder = Path(output)
    if encoder is not None and model is None:
        options.require_for_probe()
        _check_output(folder, force)
        return _fit_on_features(data, encoder, folder, label, options, slides, force)
    if model is None or encoder is not None:
        raise UsageError(
            "give either a model to fine-tune (--model), or an encoder of which the stores have features (--encoder)"
        )
    _check_output(folder, force)
    # Forked workers, Linux's default before Python 3.14, do not import the caller's script.
    if options.worker_count and multiprocessing.get_start_method() != "fork":
        require_main_guard()
    return _fine_tune(data, model, folder, label, options, slides, force, progress)


def _fine_tune(
    data: Sources,
    model: str,
    folder: Path,
    label: str | None,
    options: TrainOptions,
    slides: SlideOptions,
    force: bool,
    progress: bool,
) -> RunResult:
    # Loading torch takes seconds, which commands of other verbs that import this module can do without.
    from transformers import set_seed

    from wsivit.data import TileDataset
    from wsivit.models import create_classifier, require_image_size, save_classifier
    from wsivit.training.arguments import check_machine, make_arguments
    from wsivit.training.checkpoints import last_complete
    from wsivit.training.linear_probe import figures_of, start_from_probe
    from wsivit.training.optimizer import usual_layer_decay
    from wsivit.training.trainer import TileTrainer, run_training

    # What can be refused is refused before slides are tiled for hours.
    require_image_size(model, options.image_size)
    device = check_machine(options)

    # Pictures of folders are loaded a little larger than the model's input, so that there is something to crop.
    side = PICTURE_SIDE if options.image_size is None else -(-options.image_size * 8 // 7)
    samples = load_samples(data, label, side=side, tiler=SlideTiler(folder / TILES, slides))
    parts = divide(samples, options)

    set_seed(options.seed)
    classifier = create_classifier(
        model,
        samples.classes,
        pretrained=options.pretrained,
        image_size=options.image_size,
        weights=options.weights,
    )
    of_slides = any(source.patient for source in samples.sources)
    options = options.resolved(of_slides=of_slides, layer_decay=usual_layer_decay(classifier))
    contract = _contract(model, parts, classifier.preprocessing, options)
    arguments = make_arguments(folder / CHECKPOINTS, options, len(parts.split.of(TRAIN)), samples.size)
    # Of several processes (torchrun) the first alone writes; the others read what it wrote.
    with arguments.main_process_first(local=False):
        if force and arguments.process_index == 0:
            _remove_run(folder)
        checkpoint = last_complete(folder / CHECKPOINTS) if contract.begin_or_resume(folder) else None
    is_first = arguments.process_index == 0
    if is_first:
        write_split(folder / SPLIT, samples, parts.split)

    learned, tune = parts.learned, parts.tune
    counted = ", ".join(f"{n} {name}" for name, n in learned.counts().items())
    log.info("training on %s in %s", device, "bfloat16, weights in float32" if arguments.bf16 else "float32")
    start = None if options.from_scratch else start_from_probe(classifier, learned, tune, options)
    # Kept until it is known whether the steps made the model better.
    before = {} if start is None else {k: v.detach().clone() for k, v in classifier.model.state_dict().items()}
    trainer = TileTrainer(classifier, options, arguments, TileDataset(learned), TileDataset(tune))
    log.info("learning from %s; %s", counted, trainer.balance)
    outcome = run_training(trainer, folder, progress=progress, checkpoint=checkpoint, warnings=parts.warnings)

    if is_first:
        temperature = fit_temperature(outcome.logits, outcome.codes)
        chosen = figures_of(outcome.logits, outcome.codes, temperature) | {"epoch": outcome.epoch}
        probe: dict[str, Any] = {}
        if start is not None:
            probe = _measure_probe(classifier, before, start, chosen["log_loss"], parts, options)
            if probe["kept"]:
                temperature, chosen = probe["temperature"], probe["tune"] | {"epoch": 0.0}
        figures = {"tune": chosen, "costs": outcome.costs}
        saved = replace(contract, model_fingerprint=save_classifier(classifier, folder), temperature=temperature)
        _finish(folder, replace(saved, figures=figures, probe=probe), parts, options)
    with arguments.main_process_first(local=False):
        return RunResult(folder, RunMetadata.read(folder), parts.counts())


def _measure_probe(
    classifier: Classifier,
    before: Mapping[str, Any],
    start: FittedHead,
    tuned_loss: float,
    parts: Parts,
    options: TrainOptions,
) -> dict[str, Any]:
    """Measure the head that fine-tuning started from, and give the classifier its weights back if they are better."""
    probe = start.recorded()
    probe["kept"] = probe["tune"]["log_loss"] <= tuned_loss
    after = {key: value.detach().clone() for key, value in classifier.model.state_dict().items()}
    classifier.model.load_state_dict(before)
    spec = ModelSpec("the linear probe", "", parts.samples.classes, classifier.preprocessing, "")
    network = classifier.network
    probe["test"] = _measure(Model(spec, lambda: network), parts.test, probe["temperature"], options)
    if probe["kept"]:
        log.warning(
            "fine-tuning did not help on the tune part (log loss %.4f; a linear head on the features as they were "
            "%.4f): the run keeps that head",
            *(tuned_loss, probe["tune"]["log_loss"]),
        )
    else:
        classifier.model.load_state_dict(after)
    return probe


def _fit_on_features(
    data: Sources,
    encoder: str,
    folder: Path,
    label: str | None,
    options: TrainOptions,
    slides: SlideOptions,
    force: bool,
) -> RunResult:
    from wsivit.models import weights_fingerprint
    from wsivit.training.linear_probe import figures_of, find_column, fit_head, read_features

    samples = load_samples(data, label, tiler=SlideTiler(None, slides))
    column, about = find_column(samples, encoder)
    known = find_encoder(encoder)
    if "preprocessing" in about:
        preprocessing = Preprocessing.from_dict(about["preprocessing"])
    elif known is not None:
        preprocessing = known.preprocessing
    else:
        raise UsageError(f"the features {column!r} do not say how the input of {encoder} is made: extract them again")
    parts = divide(samples, options)
    learned = read_features(parts.learned, column)
    counted = [f"{n} {name}" for name, n in zip(samples.classes, np.bincount(learned[1]), strict=True)]
    log.info("learning a linear head from the features %s of %s", column, ", ".join(counted))
    fitted = fit_head(learned, read_features(parts.tune, column), balanced=options.balance != "none")

    contract = replace(
        _contract(known.name if known else encoder, parts, preprocessing, options),
        encoder={
            "name": known.name if known else encoder,
            "column": column,
            "fingerprint": about["model_fingerprint"],
            "pooling": about.get("pooling", ""),
            "weights": options.weights,
        },
    )
    if force:
        _remove_run(folder)
    contract.begin_or_resume(folder)
    write_split(folder / SPLIT, samples, parts.split)
    fitted.head.save(folder)
    probe = fitted.recorded()
    done = replace(
        contract,
        model_fingerprint=weights_fingerprint(folder),
        temperature=fitted.temperature,
        figures={"tune": figures_of(fitted.logits, fitted.codes, fitted.temperature)},
        probe={name: probe[name] for name in ("c", "standardised")},
    )
    return RunResult(folder, _finish(folder, done, parts, options), parts.counts())


def _finish(folder: Path, contract: RunMetadata, parts: Parts, options: TrainOptions) -> RunMetadata:
    """Measure the saved model on the part that nothing was chosen on, and write card and contract."""
    test = _measure(open_run(folder, contract), parts.test, contract.temperature, options)
    contract = replace(contract, figures={"test": test, **contract.figures})
    counts = parts.counts()
    _warn_if_below_baseline(test, counts[SIDES[TEST]])
    LocalFiles(folder).write("README.md", [model_card(folder.name, contract, counts).encode()])
    contract.write(folder)  # last: with its fingerprint the run counts as finished
    return contract


def _measure(model: Model, samples: Samples, temperature: float, options: TrainOptions) -> dict[str, float]:
    """Return the figures of a model on samples, without those that cannot be read."""
    from wsivit.training.linear_probe import figures_of, scoring_options

    if model.head is not None:
        logits = stored_logits(model, samples)
    else:
        logits = score_samples(ModelRunner(model, scoring_options(options)), samples)
    scored = ~np.isnan(logits).any(axis=1)
    if not scored.any():
        raise UsageError("no tile of the test part can be read; wsivit verify checks their stores")
    return figures_of(logits[scored], samples.code[scored], temperature)


def _contract(model: str, parts: Parts, preprocessing: Preprocessing, options: TrainOptions) -> RunMetadata:
    """Describe a run that is about to begin."""
    samples, split = parts.samples, parts.split
    return RunMetadata(
        model=model,
        classes=samples.classes,
        label=samples.label,
        mpp=samples.mpp,
        tile_size=samples.size,
        preprocessing=preprocessing,
        data=parts.provenance(),
        split={
            "how": split.how,
            "by": split.by,
            "other_regions": [SIDES[side] for side in split.by_region],
            "leaks": parts.leaks,
            "warnings": parts.warnings,
            "file": SPLIT,
        },
        options=options.recorded(),
        versions=versions(LEARNING),
        command=[Path(sys.argv[0]).name, *map(scrub, sys.argv[1:])],
    )


def _check_output(folder: Path, force: bool) -> None:
    """Refuse a folder that holds a finished run, or anything that an interrupted run does not leave."""
    if (folder / CONTRACT).is_file():
        if not force and RunMetadata.read(folder).done:
            raise OutputExistsError(f"{folder} holds a finished run; choose another output folder, or give --force")
        return
    refuse_other_contents(folder, {TILES})


def _remove_run(folder: Path) -> None:
    """Remove a run, but not the tiles of its slides, which this training reads as well."""
    if (folder / CONTRACT).is_file():
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name != TILES:
                shutil.rmtree(entry)
            elif not entry.is_dir():
                entry.unlink()


def _warn_if_below_baseline(measured: Mapping[str, float], held_out: Mapping[str, int]) -> None:
    held_out = {name: n for name, n in held_out.items() if n}
    commonest = max(held_out, key=lambda name: held_out[name])
    share, chance = held_out[commonest] / sum(held_out.values()), 1 / len(held_out)
    if measured["accuracy"] <= share and measured["balanced_accuracy"] <= chance + 0.02:
        log.warning(
            "on the test part the model is no better (accuracy %.3f) than always answering %s (%.3f): "
            "more epochs, pretrained weights or more slides may help",
            measured["accuracy"],
            commonest,
            share,
        )
