"""The base of all options: frozen, typed, and deaf to misspelt keys."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Recipe = Literal["controlled", "official"]
"""Which values the methods of a study have: see `recipe` in the configuration."""


def absent(value: object) -> bool:
    """Whether an option is None: `exclude_if=absent` leaves it out of what jobs are told.

    What a job was told decides whether it runs again, so that an option that comes later must not
    be there where nobody uses it.
    """
    return value is None


class Options(BaseModel):
    """One section of the configuration.

    A docstring under a field is its description in the schema, with the unit and the section of
    the paper that it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
