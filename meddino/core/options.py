"""The base of all options: frozen, typed, and deaf to misspelt keys."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """One section of the configuration.

    A docstring under a field is its description in the schema, with the unit and the section of
    the paper that it comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
