"""The torch dataset and what is done to its batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.train_helpers import write_store
from torch.utils.data import DataLoader

from wsivit.data import augment
from wsivit.data.dataset import Examples, TileDataset, collate
from wsivit.errors import UsageError
from wsivit.models.model_input import normalise, resize


def test_a_loader_gives_the_stores_own_tiles(tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", size=16)
    dataset = TileDataset.from_stores([store.path], "region")
    assert dataset.classes == ("stroma", "tumor")
    generator = torch.Generator().manual_seed(0)
    for workers in (0, 1):
        seen = 0
        for batch in DataLoader(dataset, 20, shuffle=True, num_workers=workers, generator=generator):
            assert batch["pixel_values"].dtype == torch.uint8
            assert batch["pixel_values"].shape[1:] == (3, 16, 16)
            seen += len(batch["labels"])
        assert seen == len(dataset) == 126
    first = dataset[0]
    index = int(dataset.samples.index[0])
    assert np.array_equal(first["pixel_values"].permute(1, 2, 0).numpy(), store[index])
    assert first["labels"] == store.label("region").codes[index]


def test_a_batch_that_was_read_together_is_not_copied(tmp_path: Path) -> None:
    dataset = TileDataset.from_stores([write_store(tmp_path, "s", size=16).path], "region")
    examples = dataset.__getitems__([5, 3, 99])
    whole, plain = collate(examples), collate([dataset[i] for i in (5, 3, 99)])
    assert isinstance(examples, Examples) and whole["pixel_values"] is examples.block["pixel_values"]
    assert all(torch.equal(whole[key], plain[key]) for key in plain)


def test_resize_agrees_with_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    ours = resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], 24)[0].permute(1, 2, 0).numpy() * 255
    theirs = np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(ours - theirs).max() <= 1


def test_normalise_is_mean_and_spread() -> None:
    pictures = torch.rand(3, 3, 4, 4)
    made = normalise(pictures, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    torch.testing.assert_close(made[:, 1], (pictures[:, 1] - 0.2) / 0.6)


def test_turn_makes_all_eight_symmetries_and_no_other() -> None:
    torch.manual_seed(0)
    picture = torch.rand(3, 5, 5)
    made = {tuple(p.flatten().tolist()) for p in augment.turn(picture.expand(200, -1, -1, -1))}
    turned = [torch.rot90(p, k, (-2, -1)) for p in (picture, picture.flip(-1)) for k in range(4)]
    assert made == {tuple(p.flatten().tolist()) for p in turned}


def test_stain_jitter_without_strength_changes_nothing() -> None:
    pictures = torch.rand(4, 3, 8, 8).clamp(min=0.05)
    torch.testing.assert_close(augment.stain_jitter(pictures, 0.0), pictures, atol=1e-5, rtol=0)


def test_zoom_of_one_is_the_picture_itself() -> None:
    pictures = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(augment.zoom(pictures, 1.0, 1.0), pictures, atol=1e-5, rtol=0)


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(["histology", "natural", "none"]), seed=st.integers(0, 99))
def test_augmented_pictures_are_pictures_and_repeatable(name: str, seed: int) -> None:
    pictures = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    made = []
    for _ in range(2):
        torch.manual_seed(seed)
        made.append(augment.augmentation(name)(pictures.clone()))
    assert torch.equal(*made)
    assert made[0].shape == pictures.shape
    assert 0 <= made[0].min() <= made[0].max() <= 1
    assert torch.equal(made[0], pictures) == (name == "none")


def test_an_unknown_augmentation_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="histology, natural, none"):
        augment.augmentation("stain")
