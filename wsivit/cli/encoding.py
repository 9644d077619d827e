"""``wsivit encoders`` and ``wsivit features``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from wsivit import encoders as _encoders
from wsivit import features as _features
from wsivit.cli.app import Report
from wsivit.cli.cohorts import format_report, many_slides
from wsivit.cli.common import FLAG, FLAT, JSON, MANY, CommonOptions, OpenOptions, documented_by, in_sections
from wsivit.cohort import CohortOptions
from wsivit.errors import StoreMismatchError, UsageError
from wsivit.inference import FeatureExtractor, FeaturesOptions
from wsivit.models import Encoder, cached_weights, check_encoder, write_probe_pictures
from wsivit.models import encoder as encoder_of
from wsivit.store import TileStore


@in_sections
def encoders(
    name: str | None = None,
    *,
    check: str | None = None,
    weights: str | None = None,
    allow_other_weights: Annotated[bool, FLAG] = False,
    pictures: str | None = None,
    as_json: Annotated[bool, JSON] = False,
) -> Report:
    """List the patch encoders that wsivit knows by name, or show one.

    With `check`, tell whether vectors that another tool made of the eight probe pictures are this encoder's, or whether
    a set of weights is, and by which other rule (pooling, resizing, mean and deviation) if not.

    Parameters
    ----------
    name : str, optional
        The encoder to show, whatever its case, dashes and underscores.
    check : str, optional
        Vectors of the probe pictures, (8, d): ``.npy``, or ``.h5`` with ``features``; or weights: a file, or a folder
        in the form of a repository, whose own settings then count.
    weights : str, optional
        File or folder of the encoder's weights to compare with. Default: the hub's, at the registry's revision.
    allow_other_weights : bool
        Check with weights that have another checksum than the registry's.
    pictures : str, optional
        Write the probe pictures into this folder, for another tool to encode.
    as_json : bool
        Print JSON.
    """
    if pictures is not None:
        return Report("\n".join(map(str, write_probe_pictures(pictures))))
    if check is not None:
        if name is None:
            raise UsageError("--check needs the name of an encoder")
        result = check_encoder(name, check, weights=weights, allow_other_weights=allow_other_weights)
        text = json.dumps(asdict(result)) if as_json else str(result)
        return Report(text, 0 if result.matches else StoreMismatchError.exit_code)
    if name is not None:
        known = encoder_of(name)
        here = cached_weights(known)
        if as_json:
            return Report(json.dumps(asdict(known) | {"weights_here": here and str(here)}, indent=2))
        return Report(_describe(known, here))
    every = _encoders().values()
    if as_json:
        return Report(json.dumps([asdict(known) for known in every], indent=2))
    width = max(len(known.name) for known in every)
    return Report("\n".join(f"{known.name:{width}}  {_summary(known)}" for known in every))


def _summary(known: Encoder) -> str:
    access = "cannot be run here" if known.refused else "gated" if known.gated else "open"
    mpp = f"{known.mpp} um/px" if known.mpp else "any scale"
    return f"{known.dim:5} numbers  {known.tile_size:3} px  {mpp:11}  {access:18}  {known.licence}"


def _describe(known: Encoder, here: Path | None) -> str:
    resized = (
        f"resized to {known.resize} px, then cropped to {known.image_size}"
        if known.resize
        else f"{known.image_size} px"
    )
    pooling = known.pooling + (f" (leaving out {known.registers} register tokens)" if known.registers else "")
    rows = {
        "encoder": known.name,
        "also": ", ".join(known.aliases),
        "vector": f"{known.dim} numbers, pooling {pooling}",
        "input": f"{resized}, {known.interpolation}, mean {known.mean}, deviation {known.std}",
        "scale": f"{known.mpp} microns per pixel" if known.mpp else "nobody says: give --mpp",
        "network": f"{known.architecture} ({known.library})" if known.library else "",
        "licence": known.licence,
        "weights": f"{known.file}{f' of {known.hub} at {known.revision[:12]}' if known.hub else ''}",
        "sha256": known.sha256 or "not known: any weights of the architecture are taken",
        "here": str(here) if here else "no",
        "access": f"ask for it at {known.url}, then log in with `hf auth login`"
        if known.gated and known.url
        else "open",
        "note": known.note,
        "refused": f"{known.refused}; import its features with wsivit import" if known.refused else "",
    }
    return "\n".join(f"{key:8} {value}" for key, value in rows.items() if value)


@documented_by(_features)
def features(
    source: Annotated[list[str], MANY],
    *,
    encoder: Annotated[list[str], MANY],
    output: str | None = None,
    options: Annotated[FeaturesOptions, FLAT] = FeaturesOptions(),
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    many: Annotated[CohortOptions, FLAT] = CohortOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    if cohort := many_slides(source, output, many, progress=common.progress):
        return format_report(cohort.features(encoder, options=options, open_options=asdict(open_options)))
    extractor = FeatureExtractor(encoder, options=options)
    slide = source[0] if TileStore.is_store(source[0]) else open_options.open(source[0])
    store = extractor(slide, output=output, force=many.force, progress=common.progress)
    lines = [
        f"{len(store)} tiles as {' x '.join(map(str, store.features(name).values.shape[1:]))} features each, by {name}"
        for name in extractor.names
    ]
    return Report("\n".join([*lines, f"store    {store.url}"]))
