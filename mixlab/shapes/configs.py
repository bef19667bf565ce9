"""Reads Hugging Face's config.json: each field is used, known to change no byte, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixlab.shapes.config_defaults import CONFIG_DEFAULTS
from mixlab.shapes.config_fields import ALLOWED_FIELDS, HARMLESS_FIELDS
from mixlab.shapes.config_reads import Config, ConfigRow, Read
from mixlab.shapes.config_rows import CONFIG_ROWS
from mixlab.shapes.designs import DESIGNS, Experts, Latent
from mixlab.shapes.model_shapes import ModelShape


def shape_of_config(path: Path) -> ModelShape:
    """Returns the shape that a config.json describes, as transformers would build its causal language model.

    A field that is absent has transformers' default. Where all layers have a sliding window, it limits the context to
    its length, up to which it is plain causal attention.

    Args:
        path: The config.json.

    Raises:
        ValueError: If the file cannot be read; or the model type is not read (the message shows how to trace it); or a
            field is missing, contradicts another, has a value that no shape has, or is unknown and may change
            parameters or activations.
    """
    return shape_of_fields(_read(path), path)


def shape_of_fields(fields: dict[str, Any], path: Path) -> ModelShape:
    """Returns the shape that the fields of a config describe, as `shape_of_config`.

    Args:
        fields: The fields, as a config.json holds them.
        path: The config.json, or another name for messages.

    Raises:
        ValueError: As `shape_of_config`.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_ROWS:
        raise ValueError(_not_read(path, fields))
    row = CONFIG_ROWS[kind]
    fields = _under_one_name(path, row, fields)
    _refuse_unknown(path, kind, row, fields)
    needed = [name for part in ("layers", "width") for name in row.reads[part].names]
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    config = Config(path, fields, CONFIG_DEFAULTS[kind])
    parts: dict[str, Any] = {"style": kind, "name": _name(path, fields)}
    for part, read in row.reads.items():
        parts[part] = read.part(config, parts) if isinstance(read, Read) else read
    try:
        shape = _shape(parts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_head_width(path, fields.get("head_dim"), shape)
    return shape


def _shape(parts: dict[str, Any]) -> ModelShape:
    if parts.pop("windowed", 0) == parts["layers"] and parts.get("window"):
        parts["context"] = min(parts["context"], parts["window"])
    design = _under(parts, "design.")
    experts, latent = _under(parts, "experts."), _under(parts, "latent.")
    plain = {part: value for part, value in parts.items() if "." not in part}
    own = replace(DESIGNS[parts["style"]], **design)
    return ModelShape(
        **plain,
        experts=Experts(**experts) if experts else None,
        latent=Latent(**latent) if latent else None,
        own_design=None if own == DESIGNS[parts["style"]] else own,
    )


_DIVIDED = ("deepseek_v2", "gemma2", "gemma3_text", "llama")  # transformers refuses such a file, whatever head_dim is


def _check_head_width(path: Path, head_dim: Any, shape: ModelShape) -> None:
    if shape.style in _DIVIDED and shape.width % shape.heads:
        raise ValueError(f"{path}: heads must divide width, got {shape.heads} heads and width {shape.width}")
    width = shape.latent.rotary if shape.latent else shape.head_width
    if head_dim is not None and (type(head_dim) is not int or head_dim != width):
        raise ValueError(
            f"{path}: head_dim must be {width} or absent for a shape of {shape.style}, got {head_dim!r:.60}"
        )


def _under(parts: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {part.removeprefix(prefix): value for part, value in parts.items() if part.startswith(prefix)}


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a config.json: it must hold an object")
    return fields


def _name(path: Path, fields: Mapping[str, Any]) -> str:
    return str(fields.get("_name_or_path") or path.parent.name or path.stem)


def _not_read(path: Path, fields: Mapping[str, Any]) -> str:
    """Returns what to do with a config that describes no model type of the table."""
    kind, text = fields.get("model_type"), fields.get("text_config")
    if isinstance(text, dict):
        inner = text.get("model_type")
        return (
            f"{path} describes a model of text and more, model_type {kind!r:.60}; only its text_config, model_type "
            f"{inner!r:.60}, may have a shape: save that part as a config.json of its own\n"
            "    import json; from pathlib import Path\n"
            f'    text = json.loads(Path({str(path)!r}).read_text())["text_config"]\n'
            '    Path("text_config.json").write_text(json.dumps(text))'
        )
    if not isinstance(kind, str):
        return f"{path}: model_type must be one of {', '.join(CONFIG_ROWS)}, got {kind!r:.60}"
    return (
        f"{path}: model_type {kind!r:.60} is not read, only {', '.join(CONFIG_ROWS)}. "
        "Build it on the meta device, which needs no memory, by the Auto class of its task, and trace it:\n"
        "    import torch; from mixlab.memory import trace; from transformers import AutoConfig, AutoModelForCausalLM\n"
        '    with torch.device("meta"): '
        f"model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained({str(path)!r}))\n"
        '    trace(model, dict.fromkeys(("input_ids", "labels"), '
        'torch.zeros(1, 1024, dtype=torch.int64, device="meta")), "amp-bf16")'
    )


def _under_one_name(path: Path, row: ConfigRow, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields with second names replaced by the first."""
    for second, first in row.aliases.items():
        if second not in fields:
            continue
        value = fields[second]
        if first in fields and fields[first] != value:
            raise ValueError(f"{path}: {second} and {first} are one field, got {value!r:.60} and {fields[first]!r:.60}")
        fields = {name: one for name, one in fields.items() if name != second} | {first: value}
    return fields


def _refuse_unknown(path: Path, kind: str, row: ConfigRow, fields: Mapping[str, Any]) -> None:
    used = {name for read in row.reads.values() if isinstance(read, Read) for name in read.names}
    known = {"model_type", "architectures", "head_dim", *used, *row.harmless, *HARMLESS_FIELDS}
    allowed = {**ALLOWED_FIELDS, **row.allowed}
    if fields.get("quantization_config") is not None:
        raise ValueError(
            f"{path}: quantization_config changes the bytes of weights, which are the recipe's here; "
            "remove the field to read the shape of the unquantized model"
        )
    _check_architecture(path, row, fields.get("architectures"))
    for name, value in fields.items():
        if name in known or value is None or (value is False and name not in allowed):
            continue
        if name not in allowed:
            raise ValueError(
                f"{path}: {name}={value!r:.60} is unknown for {kind}, and may change its parameters or activations; "
                "remove the field if it changes neither, or describe the model as a ModelShape"
            )
        if not any(value == one and type(value) is type(one) for one in allowed[name]):
            words = ", ".join(map(repr, allowed[name]))
            raise ValueError(f"{path}: {name} must be {words} or absent for a shape of {kind}, got {value!r:.60}")


def _check_architecture(path: Path, row: ConfigRow, names: Any) -> None:
    if names is None:
        return
    one = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(one, str) or _letters(one) != _letters(row.architecture):
        raise ValueError(f"{path}: architectures must be {[row.architecture]} or absent, got {names!r:.60}")


def _letters(name: str) -> str:
    return name.replace("_", "").lower()  # some published files write LLaMAForCausalLM or MPTForCausalLM
