"""The files that describe the environment say the same thing."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]

#: Extras that are in no lock: on a CPU requirements-extras.lock stands in for them.
GPU_STACKS = {"vllm", "deepspeed"}


def pins(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def direct_requirements() -> list[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    extras = [
        packages
        for extra, packages in project["optional-dependencies"].items()
        if extra not in GPU_STACKS
    ]
    return [
        *pyproject["build-system"]["requires"],
        *project["dependencies"],
        *(requirement for extra in extras for requirement in extra),
    ]


def test_conda_installs_the_lock_line_by_line() -> None:
    _, pip_part = (ROOT / "environment.yml").read_text(encoding="utf-8").split("- pip:\n")
    assert pip_part.splitlines() == [f"      - {pin}" for pin in pins("requirements.lock")]


@pytest.mark.parametrize("requirement", sorted(set(direct_requirements())))
def test_lock_satisfies_pyproject(requirement: str) -> None:
    locked = {
        canonicalize_name(name): Version(version)
        for name, version in (pin.split("==") for pin in pins("requirements.lock"))
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
