"""The rooms of the package and who may import whom; `python -m tests.house` draws the imports as they are."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mixlab"

# A room imports only from rooms before it, and a file only from files of its room before it.
ROOMS: dict[str, tuple[str, ...]] = {
    "arguments": (),
    "files": (),
    "powers": (),
    "glossary": (),
    "answers": (),
    "tables": (),
    "machine": (),
    "process": ("settings", "random_streams", "tf32", "containment"),
    "layers": (),
    "batches": ("trees", "calls", "losses"),
    "own_models": (),
    "wrappers": (),
    "formats": (
        *("encoding", "choices", "format", "_compile", "random_bits", "rounding_rules", "rounding_kernels", "rounding"),
        *("rounding_stats", "blocks", "accumulation", "fake_quantization", "explanation"),
    ),
    "loss_scaling": ("policies", "simulation", "checked_steps", "scalers", "windows", "game"),
    "emulation": ("lists", "kernels", "model_contexts", "contexts", "cast_traces"),
    "optimizers": (
        *("choices", "layout", "state_formats", "group_settings", "rules", "step", "pieces", "states"),
        *("storage", "stored", "adam_sgd", "reading", "backends", "stalls"),
    ),
    "recipes": (),
    "probes": (
        "histograms",
        "stats",
        "scale_windows",
        "tracking",
        "updates",
        "lost",
        "left_out",
        "second_moments",
        "step_losses",
        "update_tracking",
    ),
    "training": (
        *("choices", "models", "metrics", "optimizers", "tasks", "evaluation", "step_records", "outcomes"),
        *("trainer", "run_infos", "runs", "background"),
    ),
    "experiments": (
        *("ledger", "one_step", "training_modes", "one_weight"),
        *("storage_grid", "watching", "predicted_windows", "mistakes"),
    ),
    "shapes": (
        *("designs", "model_shapes", "config_fields", "config_defaults", "config_reads", "config_special"),
        *("config_parts", "config_rows", "configs", "published"),
    ),
    "memory": (
        *("gpus", "fits", "choices", "transformers", "categories", "states", "variants", "temporaries", "parallel"),
        *("eager_ops", "known_values", "operands", "fakes", "lstm", "packed_rows", "fused_attention"),
        *("cuda_kernels", "kept_numbers", "stand_ins", "value_gradients", "kernel_choice", "custom_ops", "traceable"),
        *("failures", "allocation_log", "traced_step", "tracing", "allocator", "kept_activations"),
        *("tape", "tape_ops", "hf_writings", "hf_parts", "hf_attention", "hf_experts", "hf_model", "hf_record"),
        *("hf_activations", "activation_formulas", "instants", "hf_step", "estimates", "advice"),
        *("module_estimates", "confirmation", "traced_fits", "differences"),
    ),
    "matmul": (
        *("products", "blocking", "padding", "block_search", "lower_bounds", "tile_moves"),
        *("simulator", "counted", "levels", "roofline"),
        *("rounded_sums", "tensor_cores", "summations", "dot_products", "error_bounds", "operand_samples"),
        *("halted_sums", "error_curves"),
    ),
    "measure": (
        *("requests", "gpt_shapes", "record", "devices", "sensors", "quick_matmul", "matmul_cases", "resuming"),
        *("roofs", "matmul", "casts", "training", "emulation", "optimizers", "states", "memory_models"),
        *("memory_cases", "step_memory", "memory", "everything", "comparison"),
    ),
    "integrations": ("step_bytes", "sampled_step", "watching", "hugging_face", "lightning_trainer"),
    "claims": (
        *("keys", "verdicts", "sources", "trainings", "speed", "torch_amp", "number_formats", "memory_sizes"),
        *("loss_scaling", "matrix_products", "optimizer_states", "stability", "catalogue", "settled"),
    ),
    "labs": (),
    "reports": (
        *("colours", "numbers", "kinds", "zones", "magnitudes", "gradients", "loss_scaling", "training", "columns"),
        *("modes", "optimizers", "recorded", "glossary", "fits", "phases", "outlook", "one_step", "tiles", "traffic"),
        *("windows", "casts", "claims"),
    ),
    "figures": (
        *("chart", "theme", "machine", "formats", "gradients", "training", "casts", "ledgers", "updates"),
        *("loss_scaling", "storage_grid", "memory", "allocations", "error_growth", "padding", "rooflines"),
    ),
    "panels": (
        *("presence", "base", "scripts", "drawn", "groups", "text_box", "asking", "held", "kept_answers", "folders"),
        *("exercises", "lab", "grading", "loss_scale", "curves"),
        *("one_per_cell", "live", "run_list", "recipe_turns", "knobs", "recipe_controls"),
        *("outlook", "state_controls"),
        *("bit_explorer", "scaler_board", "scaling_game", "float_designer", "memory", "stages", "step_through"),
        *("cockpit", "one_weight", "state_training", "tile_walk", "progress", "claim_quiz"),
    ),
    "cli": (
        *("values", "lab_files", "shipped", "notebooks", "liveness", "answerless"),
        *("laid_files", "lab_folder", "lab_commands", "lab_list", "record_tables"),
        *("hand_outs", "handed_in", "grades", "grade_tables", "teaching"),
        *("measure", "memory_answers", "memory", "claims", "commands"),
    ),
    "__main__": (),
}


def imported_modules(source: str) -> Iterator[str]:
    """Yields every module that the source imports anywhere, `from package import name` as package.name too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_places(source: str, package: Path = PACKAGE) -> set[tuple[str, ...]]:
    """Returns what the source imports of the package: (room,) or (room, file)."""
    dotted = [tuple(name.split(".")[1:3]) for name in imported_modules(source) if name.startswith("mixlab.")]
    return {parts[:n] for parts in dotted for n in (1, 2) if len(parts) >= n and _is_module(package, *parts[:n])}


def _is_module(package: Path, *parts: str) -> bool:
    path = package.joinpath(*parts)
    return path.with_suffix(".py").exists() or path.is_dir()


def upward_imports(room: str, file: str, source: str) -> list[str]:
    """Returns what a file of `room` imports from rooms, or from files of its room, that do not stand before it."""
    places = imported_places(source)
    rooms = list(ROOMS)
    allowed = {room, *rooms[: rooms.index(room)]}
    up = [place[0] for place in places if len(place) == 1 and place[0] not in allowed]
    if file == "__init__":
        return sorted(up)
    earlier = ROOMS[room][: ROOMS[room].index(file)] if file else ()
    own = [".".join(place) for place in places if len(place) == 2 and place[0] == room and place[1] not in earlier]
    return sorted(up + own)


def arrows(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Returns the rooms that each room imports from."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, set()).update(place[0] for place in imported_places(path.read_text(), package))
    return {room: below - {room} for room, below in found.items()}


def drawing(package: Path = PACKAGE) -> str:
    """Returns the rooms floor by floor, each with its files, its lines of code and the rooms that it imports from.

    A room stands one floor above the highest that it imports from, so every arrow points down.
    """
    below = arrows(package)
    floors: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        floors[room] = 1 + max((floors[other] for other in below[room]), default=-1)
    lines = []
    for floor in sorted(set(floors.values()), reverse=True):
        for room in sorted(room for room in floors if floors[room] == floor):
            files = sorted((package / room).glob("*.py")) or [package / f"{room}.py"]
            size = sum(len(path.read_text().splitlines()) for path in files)
            onto = ", ".join(sorted(below[room], key=lambda other: (-floors[other], other)))
            lines.append(f"{floor:>3}  {room:<20}{len(files):>3} files {size:>5} lines  -> {onto}".rstrip(" ->"))
    count = sum(map(len, below.values()))
    return "\n".join([*lines, f"{len(below)} rooms on {max(floors.values()) + 1} floors, {count} arrows, none up"])


if __name__ == "__main__":
    print(drawing(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE))  # noqa: T201
