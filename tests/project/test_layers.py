"""The house: imports go one way, files and functions are short, tests mirror rooms, and a method brings all that it has to.

The lists of exceptions only shrink: a test fails for an entry that is no longer needed, and says so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import petl.methods  # registers petl's own methods
from petl.methods import registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "petl"

# room or top-level file -> what it may import of petl besides itself. Rooms further down in this table are never imported.
GROUND = {"errors", "version", "tables"}
ROOMS = {
    "errors": set(),
    "version": set(),
    "tables": {"errors"},
    "findings": {"errors", "version"},
    "evidence": GROUND,
    "heads": GROUND | {"evidence"},
    "measures": GROUND | {"evidence"},
    "kernels": GROUND,
    "graft": GROUND | {"kernels"},
    "sites": GROUND | {"kernels", "graft"},
    "memory": GROUND | {"kernels", "graft", "sites"},
    "methods": GROUND | {"kernels", "graft", "sites"},
    "format": GROUND,
    "addresses": GROUND | {"format"},
    "wrapping": GROUND | {"graft", "sites", "memory", "methods", "format", "addresses"},
    "delta": GROUND | {"graft", "sites", "memory", "methods", "format", "addresses", "wrapping"},
    "data": GROUND | {"graft", "format", "wrapping"},
    "extraction": GROUND | {"format", "graft", "sites", "wrapping", "data"},
    "objectives": GROUND | {"evidence", "measures", "format", "graft", "sites", "wrapping", "data"},
    "inspection": GROUND | {"graft", "sites", "memory", "methods", "addresses", "wrapping", "delta"},
    "training": GROUND
    | {"heads", "measures", "graft", "methods", "format", "wrapping", "delta", "data", "extraction", "objectives"},
    "prediction": GROUND | {"measures", "graft", "format", "wrapping", "data", "extraction", "objectives", "training"},
    "sharing": GROUND | {"findings", "addresses", "methods", "format", "wrapping", "delta", "objectives", "training"},
    "tasks": GROUND
    | {
        "kernels",
        "graft",
        "sites",
        "memory",
        "methods",
        "format",
        "wrapping",
        "delta",
        "data",
        "objectives",
        "prediction",
    },
}
ROOMS["serving"] = {*ROOMS, "demo"} - {
    "evidence",
    "heads",
    "measures",
    "findings",
    "kernels",
    "memory",
    "methods",
    "inspection",
}
ROOMS["exchange"] = ROOMS["tasks"] | {"findings", "extraction", "addresses"}
GUIDES = ("ranking", "advice", "trials", "shifts")  # they do not know each other
BELOW_GUIDES = {*ROOMS} - {"kernels", "memory", "inspection", "tasks", "sharing", "exchange", "serving"}
ROOMS |= dict.fromkeys(GUIDES, BELOW_GUIDES)
ROOMS["report"] = BELOW_GUIDES
ROOMS["combining"] = BELOW_GUIDES | {"memory"}
ROOMS["start"] = BELOW_GUIDES | {*GUIDES, "report", "demo"}
ROOMS |= {top: {*ROOMS, "demo", "cli", "__init__"} for top in ("__init__", "demo", "cli", "__main__")}
ROOMS["demo"] = BELOW_GUIDES
FILES = sorted(PACKAGE.rglob("*.py"))
# files of petl/methods that hold no method of their own
NO_METHODS = {"method", "foreign", "registry", "statistics", "lora_weights", "lora_slices", "peft_fields"}
NO_METHODS |= {"default", "rates", "peft_copies", "peft_merging", "block_features"}
BRIDGE = {"peft"}  # the way to another library's methods, none of its own: documented, without a recipe
OURS = sorted(
    n for n, cls in registry.methods().items() if cls.__module__.startswith("petl.methods.") and n not in BRIDGE
)


# test file -> the files of petl that it tests besides the one of its name: parts of one subject, which only work together
TESTS_AS_WELL = {
    "addresses/test_local_file": (
        "addresses/address addresses/fetch_errors addresses/fetched_file addresses/hub_access addresses/hub_file "
        "addresses/incoming addresses/kept_copies"
    ),
    "advice/test_advise": (
        "advice/alarms advice/distance advice/duplicates advice/facts advice/measuring advice/opened advice/random_copy "
        "advice/readings advice/result advice/single_images advice/wording"
    ),
    "cli/test_app": (
        "cli/arguments cli/data_options cli/delta_commands cli/image_commands cli/key_values cli/model_commands "
        "cli/models"
    ),
    "cli/test_measured_columns": "cli/objectives",
    "inspection/test_listing": "cli/ls_command",
    "cli/test_shift_command": "cli/correct_command delta/kept_temperature",
    "cli/test_predictions": "training/held_out training/run_file",
    "cli/test_terminal": "cli/phrases errors tables",
    "combining/test_combine": (
        "combining/arithmetic combining/changes combining/combine_job combining/combined combining/heads "
        "combining/model_findings combining/opened combining/rebuilding combining/weight_matrices"
    ),
    "combining/test_combine_data": "combining/choice combining/refitted combining/regrown combining/task_data",
    "combining/test_extract": "combining/checkpoints combining/extracted",
    "combining/test_extend": "combining/extended combining/ridge_statistics",
    "cli/test_combine_command": "cli/extract_command cli/extend_command",
    "data/test_bands": "data/channel_statistics",
    "data/test_batches": "data/random_state data/replacements",
    "data/test_damage": "data/sifting",
    "data/test_datasets": "data/bad_files data/source_labels data/streams",
    "data/test_dicoms": "data/reading",
    "data/test_tiffs": "data/rasters",
    "data/test_decoding": "data/channels data/transforms",
    "data/test_inputs": "data/dict_keys data/first_image data/loaders data/logits data/pairs objectives/targets",
    "data/test_samples": "extraction/sampled_images",
    "data/test_sources": "data/split_folders",
    "data/test_table_source": (
        "data/label_lists data/listed_images data/odd_rows data/table_columns data/table_files data/table_rows "
        "data/table_sources data/table_targets data/table_values data/target_kinds"
    ),
    "data/test_tree": "data/class_folders data/reader_notes data/readers data/scanning data/split_choice",
    "data/test_validation_split": "data/grouping data/stratification",
    "data/test_wrappers": "data/class_labels",
    "delta/test_file": "delta/merged_checkpoint",
    "delta/test_header": "delta/sealed_text",
    "delta/test_hostile_headers": (
        "format/backbone_values format/method_values format/outputs format/pipeline_values format/recipe_values"
    ),
    "delta/test_save": "delta/description delta/tensors",
    "delta/test_storage": "delta/converted",
    "evidence/test_leave_one_out": "evidence/principal_axes",
    "evidence/test_reading": "measures/enough_labels",
    "exchange/test_export": (
        "exchange/exportable exchange/exported exchange/kept_texts exchange/onnx_files exchange/programs cli/exchange_commands"
    ),
    "exchange/test_from_peft": "exchange/adapter_keys exchange/adapter_layers exchange/adapter_reading",
    "exchange/test_to_peft": (
        "exchange/peft_adapter exchange/peft_config exchange/peft_folder exchange/peft_layers exchange/peft_names "
        "exchange/peft_parts exchange/peft_trial exchange/peft_tuners exchange/plain_base"
    ),
    "extraction/test_cut_points": "extraction/flops extraction/skippable",
    "extraction/test_dataset_fingerprint": "extraction/randomness",
    "extraction/test_decision": "extraction/reasons",
    "extraction/test_entry": "extraction/npy_writer",
    "extraction/test_feature_source": (
        "extraction/feature_dataset extraction/image_passes extraction/tail extraction/tail_search"
    ),
    "extraction/test_features": (
        "data/unlabelled extraction/classifier_inputs extraction/feature_pass extraction/feature_tables "
        "extraction/image_batches extraction/kept_features extraction/pooling extraction/undisturbed"
    ),
    "extraction/test_store": "extraction/provenance extraction/unfinished",
    "format/test_packing": "format/whole_numbers",
    "format/test_tensorfile": "format/atomic_files",
    "graft/test_adapted_weight": "graft/guarded_parameters kernels/buffers",
    "graft/test_graft": "graft/classes graft/folding graft/kinds graft/values",
    "heads/test_closed_form": "heads/discriminant heads/linear_head",
    "inspection/test_check": "inspection/comparison inspection/training_steps inspection/trial",
    "kernels/test_low_rank": (
        "kernels/autocast kernels/convolution kernels/frozen_norm kernels/low_rank_conv kernels/low_rank_linear "
        "kernels/memory_layout kernels/tensor_version"
    ),
    "memory/test_checkpointed_blocks": "memory/checkpoint_plan memory/observers memory/skip_plan",
    "memory/test_deferred_conv": "memory/deferral_scope",
    "memory/test_modes": "memory/conv_norm_pairs memory/explain memory/layer_kinds memory/mlp memory/weight_changes",
    "methods/test_bn": "methods/norm",
    "methods/test_lora": "methods/lora_slices methods/lora_weights",
    "methods/test_method": "methods/statistics",
    "methods/test_partial": "methods/full",
    "methods/test_peft": "methods/foreign methods/peft_copies methods/peft_fields methods/peft_merging",
    "methods/test_probe": "methods/block_features",
    "objectives/test_choice": "objectives/aux_outputs objectives/classification objectives/protocol",
    "objectives/test_metric_learning": "objectives/retrieval_metrics",
    "objectives/test_multilabel": "objectives/multilabel_metrics objectives/ranked_labels",
    "objectives/test_ordinal": "format/ordinal_outputs",
    "objectives/test_own_loss": "objectives/measured_loss",
    "objectives/test_regression": "objectives/regression_metrics objectives/standardisation",
    "pipelines/test_distributed": "graft/sharded",
    "prediction/test_image_lists": "prediction/table_images",
    "prediction/test_predict": (
        "prediction/loader_batches prediction/passes prediction/reading prediction/results prediction/streaming"
    ),
    "prediction/test_writers": "prediction/columns",
    "project/test_demo": "cli/demo_trials",
    "project/test_package": "__main__ version",
    "report/test_page": (
        "report/answer_sections report/charts report/data_sections report/depth_sections report/map_sections "
        "report/page_parts report/thumbnails report/training_sections"
    ),
    "report/test_report": (
        "report/answers report/before report/cost_facts report/data_facts report/depth_facts report/figures "
        "report/findings_facts report/images report/look_choice report/look_facts report/map_facts report/measured "
        "report/model_passes report/page_files report/result"
    ),
    "ranking/test_candidates": (
        "ranking/limits ranking/published ranking/timm_tags wrapping/licences wrapping/named_backbones"
    ),
    "ranking/test_contest": "ranking/price ranking/ranked_images ranking/ranking ranking/raw_pixels",
    "ranking/test_rank": "ranking/contenders ranking/findings_of ranking/results",
    "sites/test_sites": "sites/blocks sites/layers sites/names sites/selection",
    "sites/test_survey": "sites/channel_axis sites/image_sizes sites/meta",
    "pipelines/test_fit_in_processes": "training/sharded_run",
    "measures/test_calibration": "measures/temperature",
    "sharing/test_push": (
        "sharing/card_data sharing/card_text sharing/delta_facts sharing/pushed sharing/upload sharing/words cli/push_command"
    ),
    "shifts/test_correct": "shifts/corrected_bias",
    "shifts/test_shift": (
        "shifts/class_mix shifts/concept shifts/places shifts/readings shifts/shift_findings shifts/sides shifts/told_apart"
    ),
    "serving/test_application": (
        "serving/routes serving/counters serving/posting serving/refusals serving/served_task serving/service "
        "serving/serving_settings serving/free_memory data/claimed_size"
    ),
    "serving/test_catalogue": "serving/advice",
    "serving/test_serve": "cli/serve_command",
    "start/test_start": ("start/backbones start/choice start/parts start/started start/way cli/start_command"),
    "tasks/test_mixed": (
        "tasks/images tasks/inputs tasks/layer_changes tasks/outputs tasks/row_layers tasks/row_proof tasks/sketches"
    ),
    "tasks/test_tasks": "tasks/backbone tasks/choice tasks/modes tasks/sharing tasks/task tasks/task_model tasks/twins",
    "training/test_callbacks": "training/callback_calls",
    "trials/test_compare": (
        "trials/comparison trials/conclusion trials/early trials/options trials/quiet trials/race trials/telling "
        "trials/timing trials/too_little trials/trial"
    ),
    "trials/test_workshop": "trials/journal",
    "training/test_checkpoints": "training/trained_state",
    "training/test_fit": "training/setup",
    "training/test_head_start": "training/head_layers training/head_plan training/head_starters",
    "training/test_learning_curves": "training/history_plot training/history_table",
    "training/test_loop": "training/run training/saving",
    "training/test_stages": "training/stage_plan training/stage_rates training/trained_net",
    "training/test_rate_search": "training/find_rate training/preparation training/undone_updates",
    "wrapping/test_rates": "methods/rates training/rate_groups",
    "training/test_own_scheduler": "training/ready_optimizer",
    "training/test_trackers": "training/tracker_choice",
    "wrapping/test_backbone": "wrapping/backbone_size",
    "wrapping/test_frozen_base": (
        "wrapping/casts wrapping/causes wrapping/guarded_model wrapping/loaded_values wrapping/rebase wrapping/rounding"
    ),
    "wrapping/test_install": "wrapping/eval_mode wrapping/freezing wrapping/own_tensors wrapping/undo",
    "wrapping/test_record": "wrapping/snapshot",
    "wrapping/test_whole": "wrapping/interrupts",
    "wrapping/test_wrap": "wrapping/lookup wrapping/preconditions",
    "training/test_settings": (
        "training/feature_settings training/loop_settings training/loss_settings training/objective_settings "
        "training/optimizer_settings training/run_settings training/setting_checks"
    ),
}
TESTED_ELSEWHERE = {name: where for where, names in TESTS_AS_WELL.items() for name in names.split()}

MOST_LINES, MOST_STATEMENT_LINES = 220, 25  # of a file; of a function, without signature and docstring
LONG_FILES: dict[str, int] = {"__init__.py": 283}  # each public name stands in it three times
LONG_FUNCTIONS: dict[str, int] = {
    "training/setup.py: build_run": 33,
}
# public top-level names that two files of petl define; the command line's functions are called as their commands are
SEVERAL_MEANINGS: set[str] = set()


def room(path: Path) -> str:
    """The first part of the module's name below petl."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(room, module, line) of everything that the file imports from petl, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports say the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        yield from ((*_module(p), node.lineno) for p in parts if p[0] == "petl")


def _module(parts: list[str]) -> tuple[str, str]:
    """``petl.wrapping.wrap.x`` is of the room wrapping and the file wrap; ``petl.LoRA``, a public name, of ``__init__``."""
    here = PACKAGE / parts[1] if len(parts) > 1 else PACKAGE
    if here.is_dir() and len(parts) > 1:
        return parts[1], parts[2] if len(parts) > 2 and (here / f"{parts[2]}.py").exists() else "__init__"
    return (parts[1], "") if here.with_suffix(".py").exists() else ("__init__", "")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert room(path) in ROOMS, f"{path.name} has no place in ROOMS: say what its room may import"
    allowed = ROOMS[room(path)] | {room(path)}
    wrong = [f"line {line} imports petl.{name}" for name, _, line in imports(path) if name not in allowed]
    assert not wrong, f"{path.relative_to(ROOT)} may import only {sorted(allowed)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("name", [name for name in ROOMS if (PACKAGE / name).is_dir()])
def test_the_files_of_a_room_import_each_other_without_a_circle(name: str) -> None:
    files = {path.stem: path for path in (PACKAGE / name).glob("*.py") if path.stem != "__init__"}
    graph = {stem: {file for where, file, _ in imports(path) if where == name} for stem, path in files.items()}
    left = {stem: needs & {*files} for stem, needs in graph.items()}
    while ready := [stem for stem, needs in left.items() if not needs & {*left}]:
        for stem in ready:
            del left[stem]
    assert not left, f"these import each other in a circle: {left}"


@pytest.mark.parametrize("name", [name for name in ROOMS if (PACKAGE / name).is_dir()])
def test_a_room_has_a_sign_and_tests(name: str) -> None:
    sign = ast.parse((PACKAGE / name / "__init__.py").read_text())
    assert ast.get_docstring(sign), f"petl/{name}/__init__.py says in a paragraph what is in the room"
    assert len(sign.body) == 1 or name in {"data", "methods", "serving"}, (
        "a sign imports nothing: only data, methods and serving are public"
    )
    assert (ROOT / "tests" / name).is_dir(), f"tests/{name} mirrors petl/{name}"


def test_the_house_shows_the_rooms_as_they_are() -> None:
    """Each room has a row in the table, and imports only what stands above it in the picture."""
    page = (ROOT / "docs" / "house.md").read_text()
    rows = " ".join(line for line in page.splitlines() if line.startswith("| `"))
    tops = [name for name in ROOMS if name != "__main__"]
    absent = [name for name in tops if f"`{name}/`" not in rows and f"`{name}.py`" not in rows]
    assert not absent, f"no row in docs/house.md: {', '.join(absent)}"
    above: set[str] = set()
    for line in page.split("```text\n")[1].split("\n```")[0].splitlines():
        below = {name: ROOMS[name] - above - {"__init__", "demo", "cli"} for name in line.split()}
        assert not any(below.values()), f"docs/house.md has these beside or below a room that imports them: {below}"
        above |= {*line.split()}
    assert above == {*tops} - {"__init__"}


def test_tests_mirror_the_files() -> None:
    names = [str(path.relative_to(PACKAGE).with_suffix("")) for path in FILES if path.stem != "__init__"]
    tests = ROOT / "tests"

    def mirrored(name: str) -> bool:
        where, _, file = name.rpartition("/")
        return (tests / (where or "project") / f"test_{file}.py").exists()

    missing = [name for name in names if not mirrored(name) and name not in TESTED_ELSEWHERE]
    assert not missing, f"no tests/<room>/test_<file>.py, and not in TESTS_AS_WELL: {', '.join(missing)}"
    stale = [name for name in TESTED_ELSEWHERE if name not in names or mirrored(name)]
    assert not stale, f"take these off TESTS_AS_WELL: {', '.join(stale)}"
    lost = [f"{name}: {where}" for name, where in TESTED_ELSEWHERE.items() if not (tests / f"{where}.py").exists()]
    assert not lost, f"TESTS_AS_WELL names tests that are not there: {', '.join(lost)}"


def shrinking(counts: dict[str, int], most: int, exceptions: dict[str, int], slack: int) -> list[str]:
    """What is wrong with a list of exceptions from a limit, or with what isn't in it; entries may be `slack` too high."""
    wrong = [f"{name}: {n}, {most} are allowed" for name, n in counts.items() if most < n and name not in exceptions]
    for name, recorded in exceptions.items():
        now = counts.get(name, 0)
        if now <= most:
            wrong.append(f"{name}: {now}, take it off the list")
        elif now > recorded:
            wrong.append(f"{name}: {now}, it may only shrink from {recorded}")
        elif now < recorded - slack:
            wrong.append(f"{name}: write {now} for {recorded}")
    return wrong


def test_files_are_short() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    wrong = shrinking(lines, MOST_LINES, LONG_FILES, slack=20)
    assert not wrong, "lines of files (LONG_FILES):\n" + "\n".join(wrong)


def test_functions_are_short() -> None:
    lines: dict[str, int] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                count = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                name = f"{path.relative_to(PACKAGE)}: {node.name}"
                lines[name] = max(count, lines.get(name, 0))
    wrong = shrinking(lines, MOST_STATEMENT_LINES, LONG_FUNCTIONS, slack=3)
    assert not wrong, "lines of functions (LONG_FUNCTIONS):\n" + "\n".join(wrong)


def defined(path: Path) -> set[str]:
    """The names that a file defines at its top: functions, classes, constants."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            names |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)} if target else set()
    return names


def imported_names(path: Path) -> set[str]:
    """The names that a file takes from other files of petl."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes if (node.module or "").startswith("petl") for alias in node.names}


def test_a_name_means_one_thing() -> None:
    """Public names once in petl, private ones once in a room; a constant of one file alone is that file's."""
    where: dict[tuple[str, str], list[str]] = {}
    borrowed = {name for path in FILES for name in imported_names(path)}
    for path in FILES:
        for name in defined(path) - {"log", "__all__"} if path.stem != "__init__" else ():
            if name.isupper() and name not in borrowed:
                continue
            scope = room(path) if name.startswith("_") else ""
            where.setdefault((scope, name), []).append(str(path.relative_to(PACKAGE)))
    twice = {name: files for (_, name), files in sorted(where.items()) if len(files) > 1}
    wrong = [
        f"{name} is defined in {', '.join(files)}" for name, files in twice.items() if name not in SEVERAL_MEANINGS
    ]
    wrong += [f"{name}: take it off the list" for name in sorted(SEVERAL_MEANINGS - {*twice})]
    assert not wrong, "names that mean two things (SEVERAL_MEANINGS):\n" + "\n".join(wrong)


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    found = [path for path in FILES if path.stem in drawers]
    assert not found, f"{found}: give each function to the file whose idea it belongs to"


def test_the_methods_of_the_house_are_there() -> None:
    assert {"probe", "bn", "norm", "lora", "adapter", "input", "bias", "partial", "full"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_method_brings_its_file_recipe_and_docs(name: str) -> None:
    cls = registry.methods()[name]
    wanted = {
        f"a first line in the docstring of {cls.__name__}": bool((cls.__doc__ or "").strip().split("\n")[0]),
        f"petl.{cls.__name__}": getattr(petl, cls.__name__, None) is cls,
        f"recipes/{name}.py": (ROOT / "recipes" / f"{name}.py").is_file(),
        f"a row `{name}` in README.md's table": f"| `{name}` |" in (ROOT / "README.md").read_text(),
        f"a line with `{name}` in CHANGELOG.md": bool(
            re.search(rf"`(petl\.)?({name}|{cls.__name__})\b", (ROOT / "CHANGELOG.md").read_text())
        ),
    }
    missing = [what for what, there in wanted.items() if not there]
    assert not missing, f"method {name!r} lacks {', '.join(missing)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_a_method_file_is_imported_and_registers(path: Path) -> None:
    if path.stem in NO_METHODS:
        return
    line = f"petl.methods.{path.stem}"
    registered = {cls.__module__ for cls in registry.methods().values()}
    assert line in registered, f"{path.name} registers no method: is its import line missing in methods/__init__.py?"
