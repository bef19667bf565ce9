"""Shapes read from config.json, counted against transformers' own module on the meta device."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mixlab.shapes import DESIGNS, SHAPES, model_shape
from mixlab.shapes.config_defaults import CONFIG_DEFAULTS
from mixlab.shapes.config_reads import Read
from mixlab.shapes.config_rows import CONFIG_ROWS
from tests.models.causal_configs import CHANGES, PUBLISHED, PUBLISHED_FIELDS

pytestmark = pytest.mark.models


def counted(path: Path) -> int:
    """Returns the parameters of transformers' module of a config.json."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    return sum(parameter.numel() for parameter in model.parameters())


def file_of(folder: Path, kind: str, fields: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": kind, "pad_token_id": 0, **fields}))
    return path


def test_every_type_has_a_row_a_design_and_changes():
    assert sorted(CONFIG_ROWS) == sorted(DESIGNS) == sorted(CONFIG_DEFAULTS) == sorted(CHANGES)
    assert len(CONFIG_ROWS) >= 40


@pytest.mark.parametrize("kind", CHANGES)
def test_parameters_are_those_of_transformers_own_module_whatever_a_field_says(kind, tmp_path):
    base, changes = CHANGES[kind]
    wrong, counts = {}, set()
    for change in [{}, *changes]:
        path = file_of(tmp_path, kind, {**base, **change})
        ours, theirs = model_shape(path).parameters, counted(path)
        counts.add(theirs)
        if ours != theirs:
            wrong[str(change)] = (ours, theirs)
    assert wrong == {}
    assert len(counts) > 1, "no change of a field changed the count"


@pytest.mark.parametrize("kind", PUBLISHED_FIELDS)
def test_fields_of_published_files_are_known(kind, tmp_path):
    path = file_of(tmp_path, kind, {**CHANGES[kind][0], **PUBLISHED_FIELDS[kind]})
    assert model_shape(path).parameters == counted(path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_models(name, tmp_path):
    kind, fields, parameters, active = PUBLISHED[name]
    path = file_of(tmp_path, kind, fields)
    shape = model_shape(path)
    assert (shape.parameters, shape.active_parameters) == (parameters, active)
    assert counted(path) == parameters


def test_shapes_by_name_are_those_of_the_published_files(tmp_path):
    both = SHAPES.keys() & PUBLISHED.keys()
    assert len(both) >= 12
    for name in both:
        kind, fields, *counts = PUBLISHED[name]
        read = model_shape(file_of(tmp_path, kind, fields))
        named = dataclasses.replace(SHAPES[name], name=read.name, context=read.context, dropout=read.dropout)
        assert named == read, name
        assert [named.parameters, named.active_parameters] == counts


@pytest.mark.parametrize("kind", CONFIG_ROWS)
def test_defaults_are_those_of_transformers(kind):
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[kind]
    theirs = {field.name: field.default for field in dataclasses.fields(config_class)}
    reads = [read for read in CONFIG_ROWS[kind].reads.values() if isinstance(read, Read)]
    first = [name for part in ("layers", "width") for name in CONFIG_ROWS[kind].reads[part].names]  # never absent
    for name in {name for read in reads for name in read.names if name in theirs} - set(first):
        assert (CONFIG_DEFAULTS[kind].get(name) or None) == (theirs[name] or None), name


@pytest.mark.parametrize("kind", CONFIG_ROWS)
def test_second_names_and_classes_are_those_of_transformers(kind):
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] == CONFIG_ROWS[kind].architecture
    read = {name for one in CONFIG_ROWS[kind].reads.values() if isinstance(one, Read) for name in one.names}
    theirs = {second: first for second, first in CONFIG_MAPPING[kind].attribute_map.items() if first in read}
    assert theirs.items() <= CONFIG_ROWS[kind].aliases.items()


def test_a_config_that_transformers_saves_is_read(tmp_path):
    from transformers import CONFIG_MAPPING

    for kind, (base, _) in CHANGES.items():
        CONFIG_MAPPING[kind](**base, pad_token_id=0).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        assert model_shape(path).parameters == counted(path), kind


def test_what_to_do_with_a_config_that_is_not_read_can_be_pasted(tmp_path):
    fields = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    path = file_of(tmp_path, "biogpt", fields)
    with pytest.raises(ValueError, match="model_type 'biogpt' is not read") as refused:
        model_shape(path)
    program = "\n".join(line[4:] for line in str(refused.value).splitlines() if line.startswith("    "))
    names: dict[str, Any] = {}
    exec(program.replace("\ntrace(model", "\ntraced = trace(model"), names)
    assert str(path) in program
    assert names["traced"].peak_bytes > 0


def test_the_text_of_a_model_of_more_can_be_taken_out_as_it_is_told(tmp_path, monkeypatch):
    text = {"model_type": "gemma3_text", **CHANGES["gemma3_text"][0]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}}))
    with pytest.raises(ValueError, match="only its text_config, model_type 'gemma3_text'") as refused:
        model_shape(path)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line[4:] for line in str(refused.value).splitlines() if line.startswith("    ")), {})
    assert model_shape("text_config.json").parameters == counted(tmp_path / "text_config.json")


@pytest.mark.parametrize("name", ["multi_query", "parallel_attn", "alibi", "bias", "new_decoder_architecture"])
def test_null_is_false_where_transformers_takes_it(name, tmp_path):
    path = file_of(tmp_path, "falcon", {**CHANGES["falcon"][0], name: None})
    assert model_shape(path).parameters == counted(path)
