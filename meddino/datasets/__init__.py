"""The registry of public CT datasets, their download, and the procedural CT phantom."""
