"""The base of all options: frozen, typed, and deaf to misspelt keys."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Recipe = Literal["controlled", "official"]
"""Which values the methods of a study have: see `recipe` in the configuration."""


class Options(BaseModel):
    """One section of the configuration.

    A docstring under a field is its description in the schema, with the unit and the section of
    the paper that it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
