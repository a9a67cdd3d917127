"""What every part of an experiment file is made of: a frozen strict model, its number types, its two-way switch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator

MAX_INT = 1_000_000_000
"""Far beyond any experiment, so that what is computed from a mistyped number can't overflow."""
PositiveInt = Annotated[int, Field(gt=0, le=MAX_INT)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Text = Annotated[str, Field(min_length=1)]

Metric = Literal["val_loss", "val_accuracy", "train_loss", "train_accuracy"]
"""A column of the journal that early stopping or a schedule may watch; losses are to fall, accuracies to rise."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
NAME_RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80 characters"


def check_name(name: str) -> str:
    """A name that is safe as part of a folder name; ValueError says the rule."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} can't be a name: use {NAME_RULE}")
    return name


def _expand_switch(value: Any) -> Any:
    if value is True:
        return {}
    return None if value is False else value


# Lets a toggle be written `true` (its defaults) or `false` (off) as well as in full.
SWITCH = BeforeValidator(_expand_switch)


def by_kind(default: str) -> Discriminator:
    """Chooses among the models of a union by their `kind`, which may be left out for `default`."""

    def kind_of(value: Any) -> str:
        return str(value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default))

    return Discriminator(kind_of)


class ConflictError(ValueError):
    """Values that are right each by itself and do not go together.

    Each mistake is (field path from the model that raises, what is wrong), so that a message can
    point at the line of the field.
    """

    def __init__(self, *mistakes: tuple[str, str]):
        super().__init__("; ".join(what for _, what in mistakes))
        self.mistakes = mistakes


class Spec(BaseModel):
    """Frozen; unknown keys refused; an integer is not a boolean, a string is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_become_tuples(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return data


def refuse_zero(value: float, toggle: str) -> float:
    """A probability of 0 is a toggle that never acts; ValueError says how to switch it off instead."""
    if value == 0.0:
        raise ValueError(f"a probability of 0 never acts: to switch it off write `{toggle}: null`")
    return value
