"""The package as a stranger gets it."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hrm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("*.whl")
    return built


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(group: str) -> set[str]:
    """Names of the packages of an extra, or of the install itself."""
    listed = PROJECT["dependencies"] if group == "dependencies" else EXTRAS[group]
    return {canonical(re.match(r"[\w.-]+", name)[0]) for name in listed}  # type: ignore[index]


def pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonical(line.split("==")[0]) for line in lines if line and not line.startswith("#")}


def test_public_names_are_lazy_and_the_rest_is_refused():
    code = "import sys, hrm; assert 'load' in dir(hrm); print('torch' in sys.modules or 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src")
    assert result.stdout == "False\n"
    assert hrm.UserError.__name__ == "UserError"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        hrm.lod  # noqa: B018


def test_every_public_name_exists():
    for name in hrm.__all__:
        assert getattr(hrm, name) is not None


def test_every_required_package_is_pinned():
    assert required("dependencies").union(*map(required, EXTRAS)) <= pinned()
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text("utf-8").split()


def test_pins_are_exact_and_one_a_package():
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert len(lines) == len(pinned())


def lines_that_install() -> list[tuple[str, str]]:
    """Each `pip install ...` of pages, messages and scripts, and where it stands."""
    folders = [ROOT / name for name in ("src/hrm", "docs", "examples", "benchmarks")]
    files = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(f for folder in folders for f in sorted(folder.rglob("*"))),
    ]
    files = [f for f in files if f.suffix in (".md", ".py", ".yaml", ".html") and f.name != "log.md"]
    found = [(f, line) for f in files for line in f.read_text("utf-8").splitlines()]
    pattern = re.compile(r"pip install ((?:-\S+ )*(?:constraints\.txt )?(?:-e )?('[^']+'|\"[^\"]+\"|[^\s`;,)]+))")
    return [
        (f"{f.relative_to(ROOT)}: {line.strip()}", match[2].strip("'\""))
        for f, line in found
        for match in pattern.finditer(line)
    ]


def test_nothing_tells_to_install_this_project_from_an_index_or_with_an_extra_that_it_lacks():
    # The name hrm on the index belongs to another project: its files would take the place of these.
    installs = lines_that_install()
    assert len(installs) > 5
    for where, target in installs:
        assert not re.match(r"hrm\b", target), where
        if asked := re.fullmatch(r"\.\[([\w,{}]+)\]", target):
            assert "{" in asked[1] or set(asked[1].split(",")) <= set(EXTRAS), where
    # Messages go through `needs`, with the extra as its third argument.
    sources = "\n".join(file.read_text("utf-8") for file in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r'\bneeds\(.*, "(\w+)"(?:, error)?\)', sources))
    assert named <= set(EXTRAS) and {"lora", "eval", "track", "gym", "data", "report"} <= named


def skip_without_an_index(result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode and "No matching distribution" in result.stderr and "from versions: none" in result.stderr:
        pytest.skip("no package index is at hand")


@pytest.mark.slow
def test_all_extras_resolve_together(wheel: Path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    result = subprocess.run(
        [*pip, "install", "--dry-run", "--quiet", "-c", "constraints.txt", f"{wheel}[{','.join(EXTRAS)}]"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    skip_without_an_index(result)
    assert result.returncode == 0, result.stderr


def test_no_tracker_and_no_test_tool_is_needed_at_run_time():
    assert not required("dependencies") & (required("track") | required("dev"))


@pytest.mark.slow
def test_the_wheel_holds_presets_types_and_licence_and_no_tests(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name == f"hrm_toolkit-{hrm.__version__}-py3-none-any.whl"
    assert "hrm/py.typed" in names
    assert {f"hrm/presets/{path.name}" for path in (ROOT / "src/hrm/presets").glob("*.yaml")} <= names
    assert {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/hrm").rglob("*.py")} <= names
    assert "hrm/puzzles/pictures/page.html" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) or name.endswith(".pyc") for name in names)


@pytest.mark.slow
def test_the_wheel_runs_from_where_it_is_installed(wheel: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*command, "--target", str(tmp_path), str(wheel)], check=True, capture_output=True)
    command = [sys.executable, "-m", "hrm", "config", "check", "arc-1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "arc-1: fine\n"), result.stderr


@pytest.mark.slow
def test_installing_compiles_nothing(wheel: Path):
    """Every dependency, pinned, exists as a wheel for this interpreter."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--dry-run", "--ignore-installed"]
    command += ["--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt")]
    result = subprocess.run([*command, str(wheel)], capture_output=True, text=True)
    skip_without_an_index(result)
    assert result.returncode == 0, result.stderr
