from __future__ import annotations

import json
from typing import Any

from harness.spec.ablation_file import AblationFile
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths
from harness.spec.schema import json_schema


def types_of(schema: dict[str, Any]) -> set[str]:
    return {option.get("type", option.get("$ref")) for option in schema.get("anyOf", [schema])}


def test_every_field_is_there_with_its_meaning() -> None:
    definitions = json_schema()["$defs"]
    experiment, ablation = definitions["ExperimentFile"], definitions["AblationFile"]
    assert set(experiment["properties"]) == {*ExperimentSpec.model_fields, "base"}
    assert set(ablation["properties"]) == set(AblationFile.model_fields)
    assert ablation["required"] == ["name", "base"]
    assert "required" not in experiment  # the base may give it
    assert "required" not in definitions["Model"]
    assert "0" in definitions["Model"]["properties"]["dropout"]["description"]


def test_toggles_may_be_true_or_false() -> None:
    definitions = json_schema()["$defs"]
    assert types_of(definitions["Model"]["properties"]["se"]) == {"#/$defs/SqueezeExcitation", "null", "boolean"}
    assert types_of(definitions["Optim"]["properties"]["clip"]) == {"#/$defs/Clip", "null"}


def test_arms_take_the_dotted_paths() -> None:
    definitions = json_schema()["$defs"]
    paths = definitions["Overrides"]["properties"]
    assert set(paths) == set(field_paths(ExperimentSpec)) - {"name", "seed"}
    assert paths["augment.cutmix.alpha"]["type"] == "number"
    assert definitions["AblationFile"]["properties"]["arms"]["additionalProperties"] == {"$ref": "#/$defs/Overrides"}


def test_it_is_json_and_all_references_lead_somewhere() -> None:
    text = json.dumps(json_schema())
    definitions = json_schema()["$defs"]
    for part in text.split('"#/$defs/')[1:]:
        assert part.split('"')[0] in definitions


def test_it_is_made_afresh_each_time() -> None:
    json_schema()["$defs"].clear()
    assert types_of(json_schema()["$defs"]["Model"]["properties"]["se"]) >= {"boolean"}
    assert json_schema() == json_schema()


def test_every_section_completes_the_dotted_paths() -> None:
    definitions = json_schema()["$defs"]
    sections = definitions["AblationFile"]["properties"]
    overrides = {"$ref": "#/$defs/Overrides"}
    assert sections["ladder"]["items"] == {
        "type": "object",
        "additionalProperties": overrides,
        "minProperties": 1,
        "maxProperties": 1,
    }
    assert sections["exclude"]["items"] == overrides
    for section in ("grid", "zip"):
        assert set(sections[section]["properties"]) == set(definitions["Overrides"]["properties"])
        assert sections[section]["properties"]["augment.cutmix.alpha"]["items"]["type"] == "number"
        assert sections[section]["additionalProperties"] is False
    assert definitions["Match"]["properties"]["parameters"]["enum"][0] == "model.width"
    assert definitions["Match"]["required"] == ["parameters"]
