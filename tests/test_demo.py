from pathlib import Path

import pytest

from hrm.cli import demo
from hrm.cli.main import main
from hrm.settings import check, load_preset


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_short_demo_has_a_short_warm_up(size) -> None:
    preset = load_preset(f"sudoku-deduce-{size}x{size}")
    for steps in (1, 5, 50, preset.train.steps):
        config = demo._config(demo.Options(size, steps=steps))
        check(config)
        assert config.train.steps == steps
    assert config == demo._config(demo.Options(size)) == preset


@pytest.mark.slow
def test_the_demo_leaves_a_run_alone_that_is_not_its_own(tmp_path: Path, capsys) -> None:
    run = tmp_path / "precious"
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert main(["demo", "--out", str(run), "--steps", "20"]) == 2
    assert "none of hrm's: choose another folder" in capsys.readouterr().err
    assert (run / "run.json").read_text() == "{}"
