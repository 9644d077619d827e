"""Predictions in the forms of other tools."""
