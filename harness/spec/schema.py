"""JSON Schema of both kinds of file, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from harness.spec.ablation_file import AblationFile
from harness.spec.base import SWITCH
from harness.spec.drafts import SECTIONS, SET_BY_STUDY
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths
from harness.spec.solving import solvable

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """One schema for experiment and ablation files; `$defs/ExperimentFile` and `$defs/AblationFile` stand alone.

    Nothing is required of an experiment file, since its base may give it; the harness tells what is missing.
    """
    definitions: dict[str, Any] = {}
    experiment = _schema_of(ExperimentSpec, definitions)
    ablation = _schema_of(AblationFile, definitions)
    _allow_any_kind(definitions)
    _allow_switches(experiment, definitions)
    for definition in [experiment, *(d for name, d in definitions.items() if name not in ("Reference", "Match"))]:
        definition.pop("required", None)
    experiment["properties"]["base"] = {"type": "string", "description": "File this one is laid over, relative to it."}
    overrides = {"type": "object", "properties": _paths(experiment, definitions), "additionalProperties": False}
    definitions |= {"ExperimentFile": experiment, "AblationFile": ablation, "Overrides": overrides}
    _complete_paths(ablation["properties"], overrides)
    definitions["Match"]["properties"]["parameters"]["enum"] = list(solvable())
    kinds = [{"$ref": "#/$defs/ExperimentFile"}, {"$ref": "#/$defs/AblationFile"}]
    return {"$schema": DIALECT, "title": "Experiment or ablation file", "anyOf": kinds, "$defs": definitions}


def _complete_paths(ablation: dict[str, Any], overrides: dict[str, Any]) -> None:
    """The dotted paths, with their fields' types, wherever an ablation file takes them."""
    reference = {"$ref": "#/$defs/Overrides"}
    ablation["overrides"] |= reference
    for section in SECTIONS:
        ablation[section]["additionalProperties"] = reference
    ablation["ladder"]["items"] |= {"additionalProperties": reference, "minProperties": 1, "maxProperties": 1}
    ablation["exclude"]["items"] = reference
    lists = {path: {"type": "array", "minItems": 1, "items": field} for path, field in overrides["properties"].items()}
    for section in ("grid", "zip"):
        ablation[section] |= {"properties": lists, "additionalProperties": False}


def _schema_of(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions |= schema.pop("$defs", {})
    return schema


def _allow_switches(experiment: dict[str, Any], definitions: dict[str, Any]) -> None:
    """A toggle may be written true or false, which its type after validation does not show."""
    for path, info in field_paths(ExperimentSpec).items():
        if SWITCH in info.metadata:
            for schema in _schemas_at(path, experiment, definitions):
                schema["anyOf"].append({"type": "boolean"})


def _allow_any_kind(definitions: dict[str, Any]) -> None:
    """A base may have written the `kind` of a union, without which several of its models may fit."""
    for definition in definitions.values():
        for schema in definition.get("properties", {}).values():
            if "oneOf" in schema:
                schema["anyOf"] = schema.pop("oneOf")


def _paths(experiment: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Dotted path -> schema of the field, for completing overrides."""
    paths = {}
    for path in field_paths(ExperimentSpec):
        if path not in SET_BY_STUDY:
            schemas = _schemas_at(path, experiment, definitions)
            paths[path] = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return paths


def _schemas_at(path: str, experiment: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of the field at `path`, one for each kind that has it: through references, past a toggle's null."""
    schemas = [experiment]
    for part in path.split("."):
        options = [option for schema in schemas for option in (schema, *schema.get("anyOf", []))]
        targets = [definitions[o["$ref"].rsplit("/", 1)[-1]] if "$ref" in o else o for o in options]
        schemas = [target["properties"][part] for target in targets if part in target.get("properties", {})]
    return schemas
