"""Data card, model cards and provenance."""
