"""The model card of a run, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from wsivit.models import RunMetadata


def model_card(name: str, run: RunMetadata, counts: Mapping[str, Mapping[str, int]]) -> str:
    """Describe what the model is, what it is for, and how well it did.

    Parameters
    ----------
    name : str
        Of the run folder.
    run : RunMetadata
        Finished.
    counts : mapping
        Pictures of each class, on each side of the split.
    """
    of_slides = run.mpp is not None
    picture, source = ("tile", "slide") if of_slides else ("picture", "folder")
    rows = [f"| {side} | " + " | ".join(str(n) for n in per.values()) + " |" for side, per in counts.items()]
    leaks = "".join(f"\n- **Leak, allowed on request:** {leak}" for leak in run.split["leaks"])
    leaks += "".join(f"\n- **Warning:** {warning}" for warning in run.split["warnings"])
    if run.encoder:
        library, made = "scikit-learn", f"A linear head on the features `{run.encoder['column']}`, fitted"
    else:
        library = "timm" if "/" not in run.model else "transformers"
        made = f"`{run.model}`, trained"
    probe = ""
    if "test" in run.probe:
        kept = " It is what the run kept: fine-tuning did not help on the tune part." if run.probe["kept"] else ""
        probe = f"\n- **Linear probe of the same backbone:** {_format(run.probe['test'])} on the test part.{kept}"
    limits = (
        "Figures on held-out parts of the slides trained on say little about slides of other patients, scanners and "
        "stains."
        if of_slides
        else "Figures on pictures of one collection say little about pictures from elsewhere."
    )
    return f"""---
library_name: {library}
pipeline_tag: image-classification
tags: [{"histopathology, whole-slide-imaging, " if of_slides else ""}wsivit]
---
# {name}

{made} by wsivit {run.versions["wsivit"]} to tell {", ".join(run.classes)} (label `{run.label}`).

- **Input:** {_input(run)}.
- **Test part, which chose nothing:** {_format(run.figures["test"])}.{probe}
- **Tune part, which chose the epoch and the temperature:** {_format(run.figures["tune"])}.
- **Split:** {run.split["how"]}.{leaks}
- **{source.capitalize()}s:** {len(run.data)} ({", ".join(each["id"] for each in run.data[:10])}).

| {picture}s | {" | ".join(run.classes)} |
|---|{"---|" * len(run.classes)}
{chr(10).join(rows)}

{limits}
Not a medical device.

```
wsivit predict {name} {"slide.svs" if of_slides else "folder-of-pictures"}
```
"""


def _format(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


def _input(run: RunMetadata) -> str:
    size = run.preprocessing.image_size
    if run.mpp is None:
        return f"pictures, cropped to their middle square and brought to {run.tile_size} px, resized to {size} px"
    tiles = f"tiles of {run.tile_size} x {run.tile_size} px at {run.mpp:.4g} microns per pixel"
    return f"{tiles}, resized to {size} px"
