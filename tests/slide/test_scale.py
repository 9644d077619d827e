from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsivit.errors import ScaleError
from wsivit.slide import (
    MICRONS_AT_1X,
    Level,
    ScaleSource,
    SlideScale,
    plan_read,
    resolve_scale,
    round_length,
    scale_sources,
)

APERIO = {"aperio.MPP": "0.4990", "aperio.AppMag": "20", "openslide.mpp-x": "0.499", "openslide.mpp-y": "0.499"}


def verdict(properties: dict[str, str], **options: float | str | None) -> SlideScale:
    return resolve_scale(scale_sources(properties), **options)  # type: ignore[arg-type]


def resolution(x: str, y: str, unit: str) -> dict[str, str]:
    return {"tiff.XResolution": x, "tiff.YResolution": y, "tiff.ResolutionUnit": unit}


def test_the_scanner_is_believed_before_derived_values() -> None:
    found = verdict(APERIO, vendor="aperio")
    assert (found.mpp_x, found.mpp_y, found.source, found.confidence) == (0.499, 0.499, "aperio.MPP", "high")
    assert not found.warnings
    assert [source.name for source in found.sources] == ["aperio.MPP", "openslide.mpp", "aperio.AppMag"]


def test_every_kind_of_source_is_read() -> None:
    spacing = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing"
    cases: list[tuple[dict[str, str], tuple[float, float]]] = [
        ({"aperio.MPP": "0,2738"}, (0.2738, 0.2738)),
        ({"ome.PhysicalSizeX": "0.25", "ome.PhysicalSizeY": "0.252"}, (0.25, 0.252)),
        (
            {
                "ome.PhysicalSizeX": "250",
                "ome.PhysicalSizeY": "0.00025",
                "ome.PhysicalSizeXUnit": "nm",
                "ome.PhysicalSizeYUnit": "mm",
            },
            (0.25, 0.25),
        ),
        ({f"{spacing}[0]": "0.000252", f"{spacing}[1]": "0.00025"}, (0.25, 0.252)),
        ({"tiffslide.mpp-x": "0.5", "tiffslide.mpp-y": "0.5"}, (0.5, 0.5)),
        (resolution("43826", "43826", "centimeter"), (0.22817505, 0.22817505)),
        (resolution("50800", "50800", "inch"), (0.5, 0.5)),
    ]
    for properties, expected in cases:
        found = verdict(properties)
        assert (found.mpp_x, found.mpp_y) == pytest.approx(expected), properties


@pytest.mark.parametrize("text", ["0", "-0.499", "nan", "inf", "1e9", "1e-9", "unknown", "", "499", "0x1p-1", "1 2"])
def test_absurd_values_are_refused_and_the_objective_never_steps_in(text: str) -> None:
    with pytest.raises(ScaleError, match=r"aperio\.MPP.*aperio\.AppMag.*--slide-mpp"):
        verdict({"aperio.MPP": text, "aperio.AppMag": "20"})


@pytest.mark.parametrize(
    "properties",
    [
        {},
        resolution("72", "72", "inch"),
        resolution("20000", "20000", "none"),
        resolution("0", "0", "centimeter"),
        resolution("1", "1", "inch"),
        {"ome.PhysicalSizeX": "0.25", "ome.PhysicalSizeY": "0.25", "ome.PhysicalSizeXUnit": "pixel"},
    ],
)
def test_without_a_scale_there_is_an_error_naming_what_was_looked_at(properties: dict[str, str]) -> None:
    with pytest.raises(ScaleError) as error:
        verdict(properties)
    for name in ("aperio.MPP", "ome.PhysicalSize", "dicom.PixelSpacing", "tiff.Resolution", "--slide-mpp"):
        assert name in str(error.value)


def test_axes_that_contradict_each_other_are_refused_and_small_differences_kept() -> None:
    with pytest.raises(ScaleError, match="differ"):
        verdict(resolution("20000", "40000", "centimeter"))
    kept = verdict(resolution("20000", "20200", "centimeter"))
    assert (kept.mpp_x, kept.mpp_y) == pytest.approx((0.5, 0.4950495))
    assert not kept.warnings
    assert "resampled on its own" in verdict(resolution("20000", "21000", "centimeter")).warnings[0]


def test_disagreement_is_a_warning_and_lowers_the_confidence() -> None:
    found = verdict({**APERIO, "aperio.MPP": "0.25"}, vendor="aperio")
    assert (found.mpp_x, found.confidence) == (0.25, "low")
    assert len(found.warnings) == 2  # OpenSlide's mpp and the objective
    broken = verdict({**resolution("20000", "20000", "centimeter"), "aperio.MPP": "1e9"})
    assert (broken.source, broken.confidence) == ("tiff.Resolution", "low")
    assert "aperio.MPP" in broken.reason


def test_openslide_is_trusted_more_where_it_knows_the_scanner() -> None:
    properties = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"}
    assert verdict(properties, vendor="mirax").confidence == "high"
    assert verdict(properties, vendor="generic-tiff").confidence == "medium"


def test_the_callers_scale_comes_first_and_is_recorded_as_such() -> None:
    found = verdict(APERIO, given=0.25)
    assert (found.mpp_x, found.mpp_y, found.source, found.confidence) == (0.25, 0.25, "given", "given")
    assert "aperio.MPP" in found.warnings[0]
    for absurd in (0.02, 28.97, 500.0):
        with pytest.raises(ScaleError, match=r"outside 0\.05 to 20"):
            verdict(APERIO, given=absurd)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ScaleError, match="positive"):
            verdict(APERIO, given=wrong)


# --- plans


def pyramid(width: int, height: int, *factors: float, reductions: tuple[int, ...] = (1, 2, 4, 8)) -> list[Level]:
    sizes = [(round(width / f), round(height / f)) for f in (1, *factors)]
    return [Level(w, h, width / w, height / h, 256, 256, "jpeg", reductions) for w, h in sizes]


def scale(x: float, y: float | None = None) -> SlideScale:
    return SlideScale(x, y or x, "test", "high", "")


@pytest.mark.parametrize(
    ("mpp", "level", "reduce", "resampled"),
    [
        (0.25, 0, 1, False),
        (0.252, 0, 1, False),
        (0.5, 0, 2, False),
        (1.0, 1, 1, False),
        (2.0, 1, 2, False),
        (4.0, 2, 1, False),
        (0.3, 0, 1, True),
        (0.6, 0, 1, True),
        (0.8, 0, 2, True),
        (2.9, 1, 1, True),
        (3.9, 1, 2, True),
    ],
)
def test_the_coarsest_way_that_is_fine_enough_is_taken(mpp: float, level: int, reduce: int, resampled: bool) -> None:
    plan = plan_read(mpp, scale(0.25), pyramid(40960, 30720, 4, 16))
    assert (plan.level, plan.reduce, plan.resampled) == (level, reduce, resampled)
    assert plan.native == (reduce == 1 and not resampled)


def test_area_mode_never_lets_the_decoder_reduce() -> None:
    plan = plan_read(0.5, scale(0.25), pyramid(40960, 30720, 4), downscale="area")
    assert (plan.level, plan.reduce, plan.residual_x, plan.downscale) == (0, 1, 2.0, "area")


def test_tolerance_zero_forces_the_exact_scale() -> None:
    plan = plan_read(0.5, scale(0.2505), pyramid(40960, 30720, 4), tolerance=0)
    assert plan.resampled
    assert (plan.mpp_x, plan.mpp_y) == pytest.approx((0.5, 0.5), rel=1e-12)
    loose = plan_read(0.5, scale(0.2505), pyramid(40960, 30720, 4))
    assert not loose.resampled
    assert loose.mpp_x == pytest.approx(0.501)
    assert loose.requested_mpp == 0.5


def test_nothing_is_upsampled() -> None:
    with pytest.raises(ScaleError, match="finer than the slide"):
        plan_read(0.25, scale(0.5), pyramid(4096, 4096))
    with pytest.raises(ScaleError, match="positive"):
        plan_read(math.nan, scale(0.5), pyramid(4096, 4096))


def test_unequal_axes_are_brought_to_square_pixels() -> None:
    plan = plan_read(0.5, scale(0.25, 0.26), pyramid(8192, 8192))
    assert (plan.mpp_x, plan.mpp_y) == pytest.approx((0.5, 0.5))
    assert plan.residual_x != plan.residual_y
    near = plan_read(0.25, scale(0.25, 0.2452), pyramid(8192, 8192))  # both within 2 %, but not square
    assert near.resampled or near.mpp_x / near.mpp_y == pytest.approx(1, abs=0.01)


@given(
    mpp0=st.floats(0.1, 1.0),
    ratio=st.floats(1.0, 70.0),
    tolerance=st.sampled_from([0.0, 0.005, 0.02, 0.1]),
    width=st.integers(300, 120_000),
    height=st.integers(300, 120_000),
    factors=st.lists(st.floats(1.5, 60.0), max_size=4, unique=True).map(sorted),
    downscale=st.sampled_from(["dct", "area"]),
)
def test_every_plan_keeps_its_promises(mpp0, ratio, tolerance, width, height, factors, downscale) -> None:  # type: ignore[no-untyped-def]
    levels = pyramid(width, height, *factors)
    plan = plan_read(mpp0 * ratio, scale(mpp0), levels, tolerance=tolerance, downscale=downscale)
    level = levels[plan.level]
    within = 1 + tolerance + 1e-6
    for effective, downsample, residual, own, plane, full in (
        (plan.mpp_x, plan.downsample_x, plan.residual_x, level.downsample_x, plan.width, width),
        (plan.mpp_y, plan.downsample_y, plan.residual_y, level.downsample_y, plan.height, height),
    ):
        assert 1 / within <= effective / plan.requested_mpp <= within
        assert effective == pytest.approx(downsample * mpp0, rel=1e-12)
        assert downsample == pytest.approx(own * plan.reduce * residual, rel=1e-12)
        assert residual >= 1 / within
        assert plane >= 1
        # The target plane holds whole pixels of the slide, and all that there are but for less than one level pixel.
        assert plane == 1 or plane * downsample <= full + 1e-3 * downsample
        assert (plane + 1) * downsample > full - own * plan.reduce
    if tolerance == 0:
        assert plan.mpp_x == pytest.approx(plan.requested_mpp, rel=1e-6)
    if downscale == "area":
        assert plan.reduce == 1
    if plan.reduce > 1 and plan.resampled:
        assert min(plan.residual_x, plan.residual_y) >= 1.5


def test_a_source_without_values_is_kept_for_the_record() -> None:
    sources = (ScaleSource("aperio.MPP", None, None, "'x': not a length per pixel"),)
    assert resolve_scale(sources, given=0.5).sources == sources


def test_scale_bars_are_round() -> None:
    assert round_length(1234) == (1000, "1 mm")
    assert round_length(999) == (500, "500 µm")
    assert round_length(2.3) == (2, "2 µm")


def test_the_nominal_magnification_is_what_an_objective_states() -> None:
    """Never worked out of a scale, which would make it look as if the file said so."""
    from wsivit.slide.scale import objective_power

    measured = scale_sources({"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"})
    nominal = scale_sources({"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5", "openslide.objective-power": "40"})
    assert measured and objective_power(measured) is None
    assert objective_power(nominal) == pytest.approx(40) and MICRONS_AT_1X == 10
