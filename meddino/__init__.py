"""meddino: the open, end-to-end reproduction of MedDINOv3."""

__version__ = "0.1.0"
