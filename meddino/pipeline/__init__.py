"""Verbs: their table, their options, the records of their results, the digests of their code."""
