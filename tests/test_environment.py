"""The files that describe the package and its environment say the same thing."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import upge
from experiments import matrix

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]

#: Extras that are in no lock: on a CPU requirements-extras.lock stands in for them.
GPU_STACKS = {"vllm", "deepspeed"}


def pins(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def direct_requirements() -> list[str]:
    extras = [packages for extra, packages in EXTRAS.items() if extra not in GPU_STACKS]
    return [
        *PYPROJECT["build-system"]["requires"],
        *PYPROJECT["project"]["dependencies"],
        *(
            requirement
            for extra in extras
            for requirement in extra
            if not requirement.startswith("upge[")
        ),
    ]


def test_conda_installs_the_lock_line_by_line() -> None:
    _, pip_part = (ROOT / "environment.yml").read_text(encoding="utf-8").split("- pip:\n")
    assert pip_part.splitlines() == [f"      - {pin}" for pin in pins("requirements.lock")]


@pytest.mark.parametrize("requirement", sorted(set(direct_requirements())))
def test_lock_satisfies_pyproject(requirement: str) -> None:
    locked = {
        canonicalize_name(name): Version(version)
        for lock in ("requirements.lock", "requirements-nodeps.lock")
        for name, version in (pin.partition(";")[0].split("==") for pin in pins(lock))
    }
    wanted = Requirement(requirement)
    assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)])


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-nodeps.lock"])
def test_locks_pin_what_every_platform_can_install(name: str) -> None:
    for pin in pins(name):
        assert pin.count("==") == 1, pin
        assert "+" not in pin, f"{pin}: a local version is on no public index"
        assert "@" not in pin, f"{pin}: an address is one machine's"
        assert not pin.startswith(("nvidia", "cuda", "triton")), f"{pin}: only with CUDA"


def test_no_package_is_in_two_locks() -> None:
    locks = ("requirements.lock", "requirements-nodeps.lock", "requirements-extras.lock")
    both = [pin for lock in locks for pin in pins(lock)]
    names = [canonicalize_name(pin.split("==")[0]) for pin in both]
    assert len(names) == len(set(names))


# ---------------------------------------------------------------------------------- what users get


def test_dev_has_every_extra_that_is_locked() -> None:
    def included(extra: str) -> Iterator[str]:
        yield extra
        for requirement in map(Requirement, EXTRAS[extra]):
            if requirement.name == "upge":
                for name in requirement.extras:
                    yield from included(name)

    assert set(included("dev")) == EXTRAS.keys() - GPU_STACKS


def test_importing_the_estimator_takes_torch_alone() -> None:
    code = (
        "import sys, torch, upge\n"
        "before = set(sys.modules)\n"
        "for name in upge.__all__: getattr(upge, name)\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*new - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["upge"]


def test_importing_upge_imports_no_torch() -> None:
    code = "import sys, upge; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def asked_extras() -> Iterator[tuple[str, str]]:
    """Where the code names the extra that a missing package is installed by, and which."""
    for path in sorted((ROOT / "upge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name("require" | "hint"), args=[_, ast.Constant(str(extra))]
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", extra


def test_errors_name_extras_that_exist() -> None:
    asked = dict(asked_extras())
    assert asked
    assert {place: extra for place, extra in asked.items() if extra not in EXTRAS} == {}


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {upge.__version__}\n" in citation
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == upge.__version__  # type: ignore[index]


def test_sdist_and_the_wheel_built_of_it_are_complete(tmp_path: Path) -> None:
    """They hold every file of the package, data and py.typed too, and nothing beside it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git checkout")
    sdist, wheel = matrix.build(tmp_path)
    copied = (path for path in (tmp_path / "package" / "upge").rglob("*") if path.is_file())
    files = {path.relative_to(tmp_path / "package").as_posix() for path in copied}
    assert {"upge/__init__.py", "upge/py.typed", "upge/models/checkpoints/tiny/base.json"} <= files
    with zipfile.ZipFile(wheel) as built:
        assert {name for name in built.namelist() if ".dist-info/" not in name} == files
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert names >= files | {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
