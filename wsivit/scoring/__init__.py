"""Trained models on their device: tiles in, scores or features out. torch is loaded when the first one is made."""

from wsivit.scoring.card import Card, Model, finished_run, run_name
from wsivit.scoring.opening import open_model, open_run
from wsivit.scoring.options import ScoringOptions
from wsivit.scoring.scorer import Floats, Scorer, score_samples, softmax, stored_logits

__all__ = [
    "Card",
    "Floats",
    "Model",
    "Scorer",
    "ScoringOptions",
    "finished_run",
    "open_model",
    "open_run",
    "run_name",
    "score_samples",
    "softmax",
    "stored_logits",
]
