"""What is installed and what is missing, with the way to mend it; loads nothing heavy."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from assets.store import OfficialModel, ShippedModel, official_models, shipped_models, user_folder

_NAME = "prompt-to-avatar"
_FOR_BUILDERS = {"dev", "build"}


@dataclass(frozen=True)
class Package:
    """A distribution that is wanted, and the version that is there."""

    name: str
    installed: str | None
    extra: str | None  # None: always needed

    @property
    def fits(self) -> bool:
        return self.installed is not None


@dataclass(frozen=True)
class Report:
    """The state of an installation."""

    packages: tuple[Package, ...]
    shipped: tuple[tuple[ShippedModel, str | None], ...]  # with what is wrong, if anything
    official: tuple[OfficialModel, ...]
    folder: Path  # where the user's model files belong

    @property
    def can_create(self) -> bool:
        """Whether nothing is missing that `avatar create` needs."""
        whole = bool(self.shipped) and all(fault is None for _, fault in self.shipped)
        return whole and all(package.fits for package in self.packages if not package.extra)

    def lines(self) -> list[str]:
        """The report as text, a line each."""
        lines = [f"Python {platform.python_version()} in {sys.prefix}", "", "Packages"]
        lines += [_package_line(package) for package in self.packages]
        lines += ["", "Shipped models"]
        for model, fault in self.shipped:
            state = "ok     " if fault is None else "MISSING"
            lines.append(f"  {state} {model.name}: {model.purpose} ({model.licence})")
            if fault is not None:
                lines.append(f"          {fault}")
        if not self.shipped:
            lines.append("  MISSING none is listed; install prompt-to-avatar again")
        lines += ["", f"Official models, all optional; their files go into {self.folder}"]
        for official in self.official:
            lines += _official_lines(official)
        return lines


def examine() -> Report:
    """Look at the installed distributions and the model files."""
    return Report(
        packages=_packages(),
        shipped=tuple((model, model.fault()) for model in shipped_models()),
        official=official_models(),
        folder=user_folder(),
    )


def _packages() -> tuple[Package, ...]:
    try:
        wanted = requires(_NAME) or []
    except PackageNotFoundError:
        return (Package(_NAME, None, None),)
    found = [Package(_NAME, version(_NAME), None)]
    for line in wanted:
        requirement = Requirement(line)
        extra = _extra_of(requirement)
        if extra not in _FOR_BUILDERS:
            found.append(Package(requirement.name, _installed(requirement.name), extra))
    return tuple(found)


def _extra_of(requirement: Requirement) -> str | None:
    marker = str(requirement.marker or "")
    return marker.split('extra == "')[1].split('"')[0] if 'extra == "' in marker else None


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package_line(package: Package) -> str:
    if package.installed is not None:
        return f"  ok      {package.name} {package.installed}"
    if package.extra is None:
        return f"  MISSING {package.name}: pip install {package.name}"
    return f"  not in  {package.name}: optional, pip install '{_NAME}[{package.extra}]'"


def _official_lines(model: OfficialModel) -> list[str]:
    use = {True: "commercial use allowed", False: "no commercial use", None: "use unclear"}
    missing = model.missing()
    state = "not in " if missing else "ok     "
    lines = [f"  {state} {model.name}: {model.purpose} ({model.licence}; {use[model.commercial]})"]
    if missing:
        lines.append(f"          from {model.source}")
        lines += [f"          put it at {path}" for path in missing]
    return lines
