"""The ablation file as it is written, before its arms are expanded (`harness.spec.ablation` does that)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from harness.spec.base import PositiveInt, Spec, check_name

Seed = Annotated[int, Field(ge=0, lt=2**63)]
NamedSets = dict[str, dict[str, Any]]
Values = Annotated[list[Any], Field(min_length=1)]

MAX_SEEDS = 1000


class Reference(Spec):
    """A published number, with what is known of how it came about."""

    label: str
    """Who published it."""
    accuracy: Annotated[float, Field(ge=0.0, le=1.0)]
    """Published accuracy, a fraction."""
    loss: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """Published loss."""
    images: PositiveInt | None = None
    """Images it was measured on; gives its binomial interval."""
    parameters: PositiveInt | None = None
    """Trainable parameters of the published network."""
    runs: PositiveInt = 1
    """Independent runs behind the number."""
    selection: Literal["test", "validation", "none"] | None = None
    """What its checkpoint was selected on."""


class Match(Spec):
    """What is held equal between the arms."""

    parameters: str
    """Path of the field that is solved for in every arm, so that its trainable parameters come as near to the base's
    as a whole number allows, within the budget."""


class AblationFile(Spec):
    """A study: a base experiment, arms that differ from it, and the seeds every arm is trained with."""

    name: str
    """The study's name; the file's stem."""
    question: str | None = None
    """What the study asks, for the report."""
    base: str
    """Path of the base experiment, relative to this file."""
    seeds: Annotated[int, Field(gt=0, le=MAX_SEEDS)] | Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Seeds of every arm: a list, or a number N for 0 to N-1."""
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Smallest difference of the headline metric that matters, a fraction."""
    reference: Reference | None = None
    """A published number to compare the base with."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Experiment field path -> value, for all arms, the base too."""
    arms: NamedSets = Field(default_factory=dict)
    """Arm name -> overrides of the base."""
    leave_one_out: NamedSets = Field(default_factory=dict)
    """Part -> the overrides that switch it off; the arm is called no_<part>."""
    add_one_in: NamedSets = Field(default_factory=dict)
    """Part -> the overrides that switch it on; the arm is called with_<part>."""
    ladder: Annotated[tuple[dict[str, dict[str, Any]], ...], Field(min_length=1)] = ()
    """Steps, each one name and its overrides, laid over the steps before it; the arm is called plus_<name>."""
    grid: Annotated[dict[str, Values], Field(min_length=1)] = Field(default_factory=dict)
    """Experiment field path -> list of values: an arm for every combination, named after what differs in it."""
    exclude: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] = ()
    """Values of the grid's fields: combinations that have all values of one of these items are left out."""
    zip: Annotated[dict[str, Values], Field(min_length=1)] = Field(default_factory=dict)
    """Experiment field path -> list of values, all equally long: an arm for the first values, one for the second..."""
    match: Match | None = None
    """What to hold equal between the arms by solving for a field of the network."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(value, tuple) and len(set(value)) < len(value):
            twice = sorted({seed for seed in value if value.count(seed) > 1})
            raise ValueError(f"each seed once; twice there: {', '.join(map(str, twice))}")
        return value
