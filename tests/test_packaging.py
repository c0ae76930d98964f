"""What pip installs: the packages, their files, and versions that were tested."""

from __future__ import annotations

import fnmatch
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Optional backends that CI does not install, so that it cannot have tested a version.
NOT_IN_CI = {"paddle", "pytorch3d", "studio", "scale", "usd"}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def test_every_package_in_the_checkout_is_installed(project, root):
    there = {path.parent.name for path in root.glob("*/__init__.py")} - {"tests"}
    assert set(project["tool"]["setuptools"]["packages"]) == there


def test_model_files_texts_and_tables_are_installed_with_assets(project, root):
    patterns = project["tool"]["setuptools"]["package-data"]["assets"]
    left_out = [
        path.relative_to(root / "assets").as_posix()
        for path in (root / "assets").rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and "gallery" not in path.parts  # pictures for the README
        and not any(fnmatch.fnmatch(f"/{path.name}", p.removeprefix("**")) for p in patterns)
    ]
    assert not left_out


def test_every_dependency_that_ci_installs_is_pinned_to_a_version_that_fits(project, pins):
    table = project["project"]
    wanted = list(table["dependencies"])
    for extra, requirements in table["optional-dependencies"].items():
        if extra not in NOT_IN_CI:
            wanted += requirements
    for requirement in map(Requirement, wanted):
        pin = pins[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "==", pin
        assert requirement.specifier.contains(exact.version), (requirement, pin)


def test_torch_is_pinned_without_a_local_part(pins):
    assert str(pins["torch"]) == "torch==2.13.0"


def test_the_changelog_has_the_version(project, root):
    version = re.escape(project["project"]["version"])
    assert re.search(rf"^## {version}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_notice_of_the_heads_source_is_shipped(root):
    text = " ".join((root / "assets" / "LICENSES.md").read_text().replace(">", " ").split())
    assert "Copyright (c) 2020 USC Institute for Creative Technologies" in text
    assert "The above copyright notice and this permission notice shall be included" in text
