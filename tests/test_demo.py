from pathlib import Path

import pytest

from hrm.cli.main import main


@pytest.mark.slow
def test_the_demo_leaves_a_run_alone_that_is_not_its_own(tmp_path: Path, capsys) -> None:
    run = tmp_path / "precious"
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert main(["demo", "--out", str(run), "--steps", "20"]) == 2
    assert "none of hrm's: choose another folder" in capsys.readouterr().err
    assert (run / "run.json").read_text() == "{}"
