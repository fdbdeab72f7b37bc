"""Settings: presets, files, precedence and the sentences for mistakes."""

import math
import re
from dataclasses import MISSING, is_dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.cli.main import main
from hrm.cli.options import options_of, range_of
from hrm.core.arch import ArchConfig, CommonArch, HaltingConfig, parse_horizon
from hrm.files.reading import UserError, nearest
from hrm.puzzles.config import Config, LossConfig, Strategy, TaskConfig
from hrm.settings import check, from_yaml, kind_of, load_preset, presets, ranges, settings, to_yaml
from hrm.text.arch import TextArch
from hrm.text.config import Decoding, LearnConfig, TextConfig
from hrm.training.config import OptimConfig, TrainConfig

PRESETS = Path(__file__).parents[1] / "src/hrm/presets"
PRESET_FILES = sorted(PRESETS.glob("*.yaml"))
TEXT_FILES = sorted(PRESETS.glob("text/*.yaml"))
FLAGS = {name for option in options_of(Config) for name in (option.flag, option.off)}


def test_the_promised_presets_are_shipped():
    promised = {"sudoku-4x4", "sudoku-6x6", "sudoku-9x9", "sudoku-extreme", "sudoku-extreme-trm", "sudoku-full"}
    promised |= {"sudoku-extreme-fast", "sudoku-extreme-mlp", "maze-hard-fast", "maze-10x10"}
    promised |= {"maze-hard", "maze-hard-trm", "arc-1", "arc-1-trm", "arc-2"}
    assert promised <= set(presets(Config))
    assert sorted(path.stem for path in PRESET_FILES) == presets(Config)


@pytest.mark.parametrize("name", presets(Config))
def test_every_preset_can_be_trained(name: str):
    config = load_preset(name)
    check(config)
    assert from_yaml(to_yaml(config), name, Config) == config


def test_every_text_preset_names_a_shape_and_survives_writing():
    from hrm.text.model.configuration import HRMConfig

    promised = {"text-char", "text-80m", "text-roberta-78m", "hrm-text-1b", "gpt2-1.5b"}
    assert promised <= set(presets(TextConfig)) == {path.stem for path in TEXT_FILES}
    for name in presets(TextConfig):
        config = load_preset(name, TextConfig)
        check(config)
        assert from_yaml(to_yaml(config), name, TextConfig) == config
        assert kind_of(name) is TextConfig and HRMConfig.preset(name).max_segments == config.halting.max_segments
    assert kind_of("sudoku-4x4") is Config


def test_the_kind_of_a_file_follows_its_keys_or_its_parent(tmp_path: Path):
    (tmp_path / "below it.yaml").write_text("parent: text-char\nseed: 1")
    shared = "seed: 1", "data: a.txt", "optim: {lr: 0.001}", "arch: {dim: 32}"
    for text, kind in (
        ("text: {length: 9}", TextConfig),
        ("parent: text-char", TextConfig),
        ("seed: 1", Config),
        *((f"parent: text-char\n{text}", TextConfig) for text in shared),
        *((f"parent: sudoku-4x4\n{text}", Config) for text in shared),
        ("{parent: 'text-char', seed: 1}", TextConfig),
        (f"parent: {tmp_path / 'below it.yaml'} # a comment\nseed: 2", TextConfig),
    ):
        (tmp_path / "own.yaml").write_text(text)
        assert kind_of(tmp_path / "own.yaml") is kind, text
        assert isinstance(load_preset(tmp_path / "own.yaml", kind), kind)  # type: ignore[arg-type]


def test_a_parent_of_the_other_family_is_called_that(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("parent: text-char\ntask: {kind: maze}")
    with pytest.raises(UserError, match="'text-char' is for a run on text, not on puzzles: use"):
        load_preset(tmp_path / "own.yaml")


@pytest.mark.parametrize("path", [*PRESET_FILES, *TEXT_FILES], ids=lambda path: path.stem)
def test_every_preset_says_in_two_lines_what_it_is_and_where_it_is_from(path: Path):
    first, second, third, *_ = path.read_text("utf-8").splitlines()
    assert first.startswith("# ") and second.startswith("# ") and not third.startswith("#")
    assert re.search(r"arXiv|github|Our own", first + second)


def test_the_class_defaults_are_the_published_sudoku_recipe():
    extreme = load_preset("sudoku-extreme")
    assert replace(extreme, task=Config().task) == Config()
    assert extreme.train.steps == 20_000 * 1000 // 768


def test_the_published_maze_recipes_augment_nothing_and_ours_does():
    assert [load_preset(f"maze-hard{name}").task.augment for name in ("", "-trm", "-fast")] == [False, False, True]


@pytest.mark.parametrize("name", ["sudoku-extreme-fast", "sudoku-extreme-mlp", "maze-hard-fast"])
def test_recipes_for_one_gpu_choose_their_checkpoint_on_training_puzzles_and_stop_early(name: str):
    config = load_preset(name)
    assert config.task.holdout == config.train.eval_puzzles == 100 and config.train.patience > 0
    assert config.validation is None and config.train.eval_every < config.train.steps / 10


def test_trm_differs_from_hrm_as_published():
    trm = load_preset("sudoku-extreme-trm")
    assert (trm.arch.shared, trm.arch.fast_layers, trm.arch.h_cycles, trm.arch.l_cycles) == (True, 2, 3, 6)
    assert (trm.arch.horizon, trm.arch.mixer, trm.arch.positions, trm.arch.task_positions) == (
        "last_cycle",
        "mlp",
        "none",
        16,
    )
    assert (trm.halting.q_continue, trm.optim.ema, trm.train.steps) == (False, 0.999, 50_000 * 1000 // 768)


def test_arc_learns_task_embeddings_a_hundred_times_faster():
    for name in ("arc-1", "arc-2"):
        config = load_preset(name)
        assert (config.optim.lr, config.optim.task_lr, config.optim.weight_decay) == (1e-4, 1e-2, 0.1)
        assert (config.task.kind, config.task.size, config.task.vocabulary) == ("arc", (30, 30), 12)


def test_a_preset_overrides_the_class_and_a_file_the_preset(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("parent: sudoku-extreme-trm\narch: {l_cycles: 5}\n")
    config = load_preset(file)
    assert (Config().arch.h_cycles, config.arch.h_cycles, config.arch.l_cycles) == (2, 3, 5)
    assert config.arch == replace(load_preset("sudoku-extreme-trm").arch, l_cycles=5)


def test_a_file_may_have_a_file_as_parent_and_a_run_folder_is_its_config(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("parent: maze-hard\nseed: 7\n")
    (tmp_path / "child.yaml").write_text(f"parent: '{tmp_path}'\noptim: {{lr: 5e-5}}\n")
    child = load_preset(tmp_path / "child.yaml")
    assert (child.task.kind, child.seed, child.optim.lr) == ("maze", 7, 5e-5)
    assert load_preset(tmp_path).seed == 7


def test_lists_of_names_and_values_are_laid_over_each_other_name_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "mine.yaml"
    options = ("show", "text-binary-matrix", "--text.options", "max_n=5")
    assert main(["config", *options]) == 0
    assert "options: [min_n=4, max_n=5]" in capsys.readouterr().out
    assert main(["config", *options, "--data", "chain_sum"]) == 0
    assert "options: [max_n=5]" in capsys.readouterr().out
    file.write_text("task: {kind: gym, gym: n_queens, gym_options: [n=5, min_remove=1]}")
    assert main(["config", "show", str(file), "--task.gym-options", "n=6"]) == 0
    assert "gym_options: [n=6, min_remove=1]" in capsys.readouterr().out


def test_the_older_form_of_a_models_settings_is_read_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.yaml"
    file.write_text("parent: text-char\nsettings: [dropout=0.1, max_segments=3]\narch: {heads: 2}\n")
    assert main(["config", "show", str(file), "--settings", "hidden_size=128", "gate=false", "use_act=true"]) == 0
    out, err = capsys.readouterr()
    said = "--settings is an older form: read as --arch.dim 128 --arch.no-gate --halting.kind q"
    assert err.strip() == said
    config = from_yaml(out, "shown", TextConfig)
    assert (config.arch.dim, config.arch.heads, config.arch.dropout, config.arch.gate) == (128, 2, 0.1, False)
    assert (config.halting.max_segments, config.halting.kind, config.arch.horizon) == (3, "q", "per_cycle([2])")
    # A file that stands alone began with the shape text-char, which had other depths than the preset has.
    for text in ("text: {length: 9}", "model: text-char\nsettings: [num_attention_heads=2]"):
        alone = from_yaml(text, "alone.yaml", TextConfig)
        assert (alone.halting.max_segments, alone.halting.kind, alone.arch.horizon) == (8, "q", "last_step")
    with pytest.raises(UserError, match=r"unknown key 'arch.hidden_size': use 'arch.dim'"):
        from_yaml("arch: {hidden_size: 1}", "own.yaml", TextConfig)
    for text, words in (("settings: [hiden_size=1]", "hidden_size"), ("settings: [dim]", "NAME=VALUE")):
        with pytest.raises(UserError, match=f"old.yaml: settings .*{words}"):
            from_yaml(text, "old.yaml", TextConfig)


@pytest.mark.parametrize("kind", ["text", "learner"])
def test_a_run_of_the_older_form_has_the_settings_of_its_model(kind: str):
    from hrm.text.model.configuration import HRMConfig

    run = Path(__file__).parent / "golden/runs" / kind
    config: Any = load_preset(run, TextConfig if kind == "text" else LearnConfig)
    saved = HRMConfig.from_pretrained(run / "model")
    ids = {name: getattr(saved, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    made = HRMConfig.of(config.arch, config.halting, config.loss, **ids)
    assert made.to_diff_dict() | {"dtype": None} == saved.to_diff_dict() | {"dtype": None}


def test_a_models_architecture_is_that_of_the_saved_model_or_preset_it_names_and_flags_change_it(tmp_path: Path):
    from hrm.text.model.configuration import HRMConfig

    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5}
    HRMConfig(num_key_value_heads=4, embedding_scale=2, rope_parameters=rope).save_pretrained(tmp_path)
    base = load_preset("text-char", TextConfig)
    named = base.under({"model": str(tmp_path)})
    assert (named.arch.dim, named.arch.kv_heads, named.arch.embedding_scale) == (512, 4, 2.0)
    assert (named.arch.rope_base, named.train) == (5e5, base.train) and {"rope_type=yarn", "factor=4.0"} <= {
        *named.arch.rope
    }
    flagged = replace(named, model=str(tmp_path), halting=replace(named.halting, max_segments=3))
    assert flagged.changes == {"max_segments": 3}
    assert replace(named, model=str(tmp_path)).changes == {}
    again = HRMConfig.of(named.arch, named.halting, named.loss)
    assert again.to_diff_dict() == HRMConfig.from_pretrained(tmp_path).to_diff_dict()
    assert base.under({"model": "text-80m"}).arch == load_preset("text-80m", TextConfig).arch
    assert base.under({"model": "none"}) == base
    (tmp_path / "own.yaml").write_text(f"parent: text-char\nmodel: '{tmp_path}'\narch: {{dropout: 0.2}}")
    config = load_preset(tmp_path / "own.yaml", TextConfig)
    assert (config.arch.dim, config.arch.dropout) == (512, 0.2) and config.changes == {"dropout": 0.2}


def test_what_both_architectures_have_is_written_once():
    from hrm.text.model.configuration import HRMConfig
    from hrm.text.names import NAMES

    common = set(vars(CommonArch()))
    assert common == set(vars(ArchConfig())) & set(vars(TextArch()))
    model = HRMConfig(vocab_size=9)
    for name in common - {"expansion", "expansion_multiple", "rope_base", "kv_heads"}:
        assert getattr(model, NAMES[f"arch.{name}"]) == getattr(model.arch, name) == getattr(TextArch(), name), name


def test_parents_that_form_a_circle_are_named(tmp_path: Path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(f"parent: '{second}'\n")
    second.write_text(f"parent: '{first}'\n")
    with pytest.raises(UserError, match=r"a\.yaml has itself as parent.*b\.yaml"):
        load_preset(first)


def test_an_unknown_preset_gets_the_nearest_name():
    with pytest.raises(UserError, match="'sudoku-extrem'; did you mean 'sudoku-extreme'"):
        load_preset("sudoku-extrem")
    with pytest.raises(UserError, match="shows the presets, such as arc-1, "):
        load_preset("zzz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch: {l_cycle: 4}", "unknown key 'arch.l_cycle'; did you mean 'arch.l_cycles'"),
        ("l_cycles: 4", "unknown key 'l_cycles'; did you mean 'arch.l_cycles'"),
        ("optim: {dim: 4}", "unknown key 'optim.dim'; did you mean 'arch.dim'"),
        ("archh: {dim: 4}", "unknown key 'archh'; did you mean 'arch'"),
        ("7: 4", "unknown key '7'"),
        ("arch: {dim: '512'}", "'arch.dim' must be an integer, not '512'"),
        ("arch: {dim: 512.0}", "'arch.dim' must be an integer, not 512.0"),
        ("arch: {dim: true}", "'arch.dim' must be an integer, not True"),
        ("arch: {dim: null}", "'arch.dim' must be an integer, not None"),
        ("arch: {kv_heads: two}", "'arch.kv_heads' must be an integer, not 'two'"),
        ("arch: {gate: 1}", "'arch.gate' must be on or off, not 1"),
        ("arch: {mixer: conv}", "'arch.mixer' must be one of attention, mlp, groups, neighbours, not 'conv'"),
        ("arch: 3", "'arch' must hold settings such as 'arch.dim', not 3"),
        ("optim: {lr: fast}", "'optim.lr' must be a number, not 'fast'"),
        ("optim: {lr: .nan}", "'optim.lr' must be a number, not nan"),
        ("task: {box: [2, 2, 2]}", "'task.box' must be 2 values, each an integer, not [2, 2, 2]"),
        ("task: {box: [2, x]}", "'task.box' must be an integer, not 'x'"),
        ("train: {track: [aim]}", "'train.track' must be one of tensorboard, wandb, trackio, not 'aim'"),
        ("data: 3", "'data' must be text, not 3"),
        ("- arch", "must consist of `key: value` lines"),
        ("arch: {dim: 4", "is not valid YAML"),
        ("seed: 1\nseed: 2", "the key 'seed' appears twice"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ("arch: !!python/object:os.system {}", "is not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_the_key_and_the_fix(text: str, message: str):
    with pytest.raises(UserError) as error:
        from_yaml(text, "mine.yaml", Config)
    assert str(error.value).startswith("mine.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_numbers_may_be_written_as_in_papers():
    config = from_yaml("optim: {lr: 1e-4, weight_decay: 1, betas: [.9, 95E-2]}\narch: {hierarchy: off}", "text", Config)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.betas) == (1e-4, 1.0, (0.9, 0.95))
    assert type(config.optim.weight_decay) is float
    assert config.arch.hierarchy is False


def test_an_empty_file_is_the_default_configuration():
    assert from_yaml("", "empty.yaml", Config) == Config()


numbers = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.slow
@given(
    st.builds(
        Config,
        task=st.builds(TaskConfig, reveal=numbers),
        arch=st.builds(ArchConfig, norm_eps=numbers, expansion=numbers, rope_base=numbers, horizon=st.text()),
        halting=st.builds(HaltingConfig, exploration=numbers, weight=numbers),
        loss=st.builds(LossConfig, label_smoothing=numbers, z_loss=numbers),
        optim=st.builds(OptimConfig, lr=numbers, betas=st.tuples(numbers, numbers)),
        train=st.builds(TrainConfig, minutes=numbers, target_accuracy=numbers, device=st.text()),
        data=st.none()
        | st.text()
        | st.sampled_from(["1e4", "null", "off", "12", "~", "no", "1_0", "0x1", "2001-01-01", "a: b"]),
    )
)
def test_yaml_holds_every_setting_exactly(config: Config):
    assert from_yaml(to_yaml(config), "text", Config) == config


def test_horizons_are_parsed():
    assert parse_horizon("last_step") == ("last_step", None)
    assert parse_horizon("last_cycle") == ("last_cycle", None)
    assert parse_horizon("trailing(12)") == ("trailing", 12)
    assert parse_horizon("per_cycle([1, 2,3])") == ("per_cycle", [1, 2, 3])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "last",
        "trailing",
        "trailing()",
        "trailing(-1)",
        "trailing(x)",
        "per_cycle([])",
        "per_cycle(1)",
        "last_step()",
    ],
)
def test_a_wrong_horizon_is_refused_with_the_ways_to_write_it(text: str):
    with pytest.raises(UserError, match=r"--arch\.horizon.*trailing\(k\)"):
        parse_horizon(text)


def changed(config: Any, values: dict[str, object]) -> Any:
    for name, value in values.items():
        group, _, key = name.rpartition(".")
        config = replace(
            config, **({group: replace(getattr(config, group), **{key: value})} if group else {key: value})
        )
    return config


CONFLICTS: list[tuple[dict[str, object], str]] = [
    ({"task.box": (5, 5)}, "--task.box"),
    ({"task.box": (1, 1)}, "--task.box"),
    ({"task.kind": "maze", "task.size": (5, 5), "task.min_path": 25}, "--task.min-path"),
    ({"task.kind": "maze", "task.reveal": 0.5}, "--task.reveal"),
    ({"task.kind": "maze", "task.waves": True}, "--arch.mixer"),
    (
        {
            "task.kind": "maze",
            "task.waves": True,
            "arch.tied": True,
            "arch.mixer": "neighbours",
            "arch.positions": "none",
            "arch.task_positions": 0,
        },
        "--arch.no-tied",
    ),
    ({"arch.dim": 500}, "--arch.heads"),
    ({"arch.dim": 4, "arch.positions": "none"}, "--arch.dim"),
    ({"arch.kv_heads": 3}, "--arch.kv-heads"),
    ({"arch.kv_heads": 16}, "--arch.kv-heads"),
    ({"arch.dim": 24, "arch.heads": 8}, "an even --arch.dim / --arch.heads"),
    ({"arch.mixer": "mlp"}, "--arch.positions"),
    ({"arch.mixer": "mlp", "arch.positions": "none", "arch.attention": "causal"}, "--arch.attention"),
    ({"arch.mixer": "mlp", "arch.positions": "none", "arch.gate": True}, "--arch.gate"),
    ({"arch.mixer": "groups", "arch.positions": "none"}, "--arch.task-positions"),
    ({"arch.tokens": "candidates", "task.kind": "maze"}, "--arch.tokens"),
    ({"arch.tokens": "candidates", "arch.positions": "groups"}, "--arch.positions"),
    ({"arch.tokens": "candidates", "arch.tied": True}, "--arch.no-tied"),
    ({"arch.tokens": "candidates", "loss.label_smoothing": 0.1}, "--loss.label-smoothing"),
    ({"arch.expansion": 0.0}, "--arch.expansion"),
    ({"arch.slow_layers": 0}, "--arch.slow-layers"),
    ({"arch.hierarchy": False, "arch.shared": True}, "--arch.shared"),
    ({"arch.hierarchy": False}, "--halting.max-segments"),
    ({"arch.horizon": "trailing(1)"}, "--arch.horizon"),
    ({"arch.horizon": "per_cycle([1, 1, 1])"}, "--arch.h-cycles"),
    ({"arch.horizon": "per_cycle([3])"}, "--arch.l-cycles"),
    ({"arch.horizon": "all"}, "--arch.horizon"),
    ({"halting.max_segments": 1}, "--halting.no-q-continue"),
    ({"train.steps": 100}, "--optim.warmup-steps"),
    ({"train.accumulate": 5}, "--train.accumulate"),
    ({"train.accumulate": 1000}, "--train.accumulate"),
    ({"train.target_accuracy": 0.9, "train.eval_puzzles": 0}, "--train.eval-puzzles"),
    ({"train.track": ("wandb", "wandb")}, "--train.track"),
    ({"task.kind": "maze", "task.extra_clues": 0.5}, "--task.extra-clues"),
    ({"data": " "}, "--data"),
    ({"validation": ""}, "--validation"),
]


@pytest.mark.parametrize(("values", "words"), CONFLICTS, ids=lambda value: value if isinstance(value, str) else None)
def test_a_combination_that_cannot_work_gets_one_sentence_naming_real_flags(values: dict[str, object], words: str):
    with pytest.raises(UserError) as error:
        check(changed(Config(), values))
    message = str(error.value)
    assert words in message and "\n" not in message
    assert set(re.findall(r"--[a-z][a-z.-]*[a-z]", message)) <= FLAGS


small = {
    "dim": st.just(8),
    "heads": st.just(2),
    "kv_heads": st.sampled_from([None, 1, 2]),
    "fast_layers": st.just(1),
    "slow_layers": st.just(1),
    "horizon": st.sampled_from(["last_step", "last_cycle", "trailing(2)", "per_cycle([1, 2])"]),
    "h_cycles": st.just(2),
    "l_cycles": st.just(2),
    "norm_eps": st.just(1e-5),
    "expansion": st.just(2.0),
    "expansion_multiple": st.just(8),
    "rope_base": st.just(1e4),
    "task_positions": st.sampled_from([0, 2]),
}
attending = st.builds(ArchConfig, **small, mixer=st.just("attention"))
pooling = st.builds(
    ArchConfig,
    **small,
    mixer=st.sampled_from(["mlp", "groups"]),
    attention=st.just("bidirectional"),
    gate=st.just(False),
    positions=st.sampled_from(["learned", "groups", "none"]),
)
SMALL_TASKS = [TaskConfig(box=(2, 2)), TaskConfig("maze", size=(4, 5), min_path=2), TaskConfig("grid", size=(2, 3))]


@given(st.sampled_from(SMALL_TASKS), attending | pooling)
@hypothesis.settings(max_examples=200)
def test_what_passes_the_check_runs_and_learns(task: TaskConfig, arch: ArchConfig):
    import torch

    from hrm.puzzles.model import PuzzleModel, board_of
    from hrm.puzzles.tasks import build

    segments = 4 if arch.hierarchy else 1
    try:
        check(Config(task, arch, HaltingConfig(max_segments=segments, q_continue=arch.hierarchy)))
    except UserError:
        return
    board = board_of(build(task))
    model = PuzzleModel(arch, board)
    inputs, ids = torch.ones(2, board.cells, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    _, readout = model.segment(model.initial_carry(inputs, ids), inputs, ids)
    assert readout.logits.shape == (2, board.cells, board.vocabulary) and readout.q.shape == (2, 2)
    readout.logits[..., 2].sum().backward()
    assert any(weight.grad is not None for weight in model.recurrence.parameters())


@pytest.mark.parametrize("kind", [Config, TextConfig, LearnConfig])
def test_a_number_out_of_range_names_its_flag(kind: Any):
    assert len(ranges(kind)) > 20
    for name, (low, high) in ranges(kind).items():
        for number in (low - 1, high * 2 + 1, math.nan, math.inf):
            value = (number, number) if isinstance(settings(kind())[name], tuple) else number
            with pytest.raises(UserError, match=re.escape("--" + name.replace("_", "-")) + " must be"):
                check(changed(kind(), {name: value}))


def test_every_number_of_every_setting_and_flag_has_a_range():
    from hrm.cli import analyze, arc, chat, convert, data, demo, generate, solve, text_data, text_eval
    from hrm.cli import eval as measure

    kinds: dict[Any, str] = {Config: "", TextConfig: "", LearnConfig: "learn", Strategy: "", Decoding: ""}
    verbs = {data: "data ", text_data: "data ", arc: "arc ", analyze: "analyze "}
    for module in (analyze, arc, chat, convert, data, demo, generate, solve, text_data, text_eval, measure):
        name = module.__name__.rpartition(".")[2].removeprefix("text_")
        for kind in vars(module).values():
            if isinstance(kind, type) and "Options" in kind.__name__ and kind.__module__ == module.__name__:
                verb = verbs.get(module, "") + kind.__name__.removesuffix("Options").lower()
                kinds[kind] = verb if module in verbs else name
    assert len(kinds) > 15
    for kind, verb in kinds.items():
        for option in options_of(kind):
            if re.search(r"\b(int|float)\b", str(option.kind)):
                allowed = range_of(option, verb)
                assert allowed, f"{option.flag} of {verb or kind.__name__} has no range"
                allowed.check(option.name, () if option.default is MISSING else option.default)


@pytest.mark.parametrize(
    "words",
    [
        "solve sudoku 1 --views 1000000000",
        "solve sudoku 1 --guesses 1000000000",
        "solve sudoku 1 --restarts -1",
        "solve sudoku 1 --max-segments 9223372036854775807",
        "solve sudoku 1 --residual nan",
        "solve sudoku 1 --delay inf",
        "solve sudoku 1 --batch-size 0",
        "eval sudoku --data x --limit 0",
        "eval sudoku --data x --skip -1",
        "generate run x --temperature nan",
        "generate run x --temperature 0",
        "generate run x --top-k -1",
        "generate run x --repetition-penalty 1e-300",
        "generate run x --schedule 9000000000 2",
        "chat run --top-p 2",
        "data build --out x --box 1000 1000",
        "data build --out x --size 0 5",
        "data pack x --out y --holdout 1",
        "data tokenizer x --out y --vocabulary 3",
        "data show x --row 0",
        "arc build --data x --out y --largest 0",
        "convert x y --to hrm --shape 0 9",
        "train sudoku-4x4 --dry-run --arch.fast-layers 9223372036854775807",
        "train sudoku-4x4 --dry-run --train.minutes inf",
        "config check sudoku-4x4 --arch.dim 9000000000000000000",
        "learn run x --epochs 1000000000",
    ],
)
def test_extreme_flags_end_at_once_in_a_sentence_with_their_range(words: str, capsys: pytest.CaptureFixture[str]):
    assert main(words.split()) == 2
    assert re.search(r": --[a-z.-]+ must be (above|at least) .*, not ", capsys.readouterr().err)


def test_settings_lists_every_leaf_once():
    assert list(settings(Config())) == [option.name for option in options_of(Config)]
    assert not any(is_dataclass(value) for value in settings(Config()).values())


def test_nearest_prefers_the_same_last_word():
    assert nearest("--lr", ["--optim.lr", "--seed"]) == "; did you mean '--optim.lr'?"
    assert nearest("evall", ["eval", "train"]) == "; did you mean 'eval'?"
    assert nearest("zzz", ["eval", "train"]) == ""
