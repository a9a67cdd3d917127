"""Which of many specs is most like another: by the number of identity fields that differ, in time for thousands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.spec import identity
from harness.spec.difference import Difference, differences_of
from harness.spec.experiment import ExperimentSpec

CHUNK = 1000  # specs compared with all stored ones at once
SAME_NAME = 0.5  # of two that differ in as many fields the one of the same name is nearer

Matrix = np.ndarray[Any, Any]


class Nearest:
    """Specs to compare others with. Counting is a product of matrices: a row a spec, a column a field or a value.

    Of two specs those fields differ that one of them has, less those that both have with the same value.
    """

    def __init__(self, stored: Sequence[ExperimentSpec]):
        self.stored = stored
        self._canonical = [identity.canonical(spec) for spec in stored]
        self._fields: dict[str, int] = {}
        self._values: dict[str, int] = {}
        self._names: dict[str, int] = {}
        leaves = [dict(_leaves(tree)) for tree in self._canonical]
        for spec, found in zip(stored, leaves, strict=True):
            self._names.setdefault(spec.name, len(self._names))
            for path, value in found.items():
                self._fields.setdefault(path, len(self._fields))
                self._values.setdefault(f"{path}={value}", len(self._values))
        self._matrices = self._encoded(stored, leaves)

    def of(self, wanted: Sequence[ExperimentSpec]) -> Iterator[tuple[int, tuple[Difference, ...]]]:
        """For each spec the position of the stored one that is nearest to it (there must be one), and what differs."""
        for start in range(0, len(wanted), CHUNK):
            specs = wanted[start : start + CHUNK]
            trees = [identity.canonical(spec) for spec in specs]
            positions = self._positions(specs, [dict(_leaves(tree)) for tree in trees])
            for spec, tree, position in zip(specs, trees, positions, strict=True):
                yield position, differences_of(spec, tree, self.stored[position], self._canonical[position])

    def _positions(self, specs: Sequence[ExperimentSpec], leaves: Sequence[Mapping[str, str]]) -> list[int]:
        fields, values, names = self._encoded(specs, leaves)
        stored_fields, stored_values, stored_names = self._matrices
        differing = (
            np.array([len(found) for found in leaves])[:, None]
            + stored_fields.sum(axis=1)[None, :]
            - fields @ stored_fields.T
            - values @ stored_values.T
            - SAME_NAME * (names @ stored_names.T)
        )
        positions: list[int] = differing.argmin(axis=1).tolist()
        return positions

    def _encoded(
        self, specs: Sequence[ExperimentSpec], leaves: Sequence[Mapping[str, str]]
    ) -> tuple[Matrix, Matrix, Matrix]:
        """Which fields, values and names each spec has, of those that any stored one has."""
        columns = (self._fields, self._values, self._names)
        fields, values, names = (np.zeros((len(specs), len(column)), dtype=np.float32) for column in columns)
        for row, (spec, found) in enumerate(zip(specs, leaves, strict=True)):
            for path, value in found.items():
                if (column := self._fields.get(path)) is not None:
                    fields[row, column] = 1
                if (column := self._values.get(f"{path}={value}")) is not None:
                    values[row, column] = 1
            if (column := self._names.get(spec.name)) is not None:
                names[row, column] = 1
        return fields, values, names


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every field; of a toggle that is on itself too."""
    for key, value in tree.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            if path:
                yield below, "on"
            yield from _leaves(value, below)
        else:
            yield below, json.dumps(value)
