"""A procedural H&E-like slide with known regions, to try everything without a slide of one's own."""

from wsivit.sample.slide import SamplePaths, write_sample_slide

__all__ = ["SamplePaths", "write_sample_slide"]
