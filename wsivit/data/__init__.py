"""Labelled tiles as a model learns from them: samples, splits, the leakage audit, the torch dataset, augmentation."""
