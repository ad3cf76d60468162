"""The sections of the report: one module turns results into each."""
