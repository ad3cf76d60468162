"""The configuration of a study, and all that follows from it."""
