"""DSC and NSD of predictions, per case and class."""
