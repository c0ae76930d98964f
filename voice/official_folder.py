"""The files of a release: which of a folder's files hold which network, each read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from assets.errors import AssetError
from assets.kinds import N_START, is_pickle, is_safetensors, is_zip, what_instead
from voice.official_read import TITLES, Networks, read_networks

_DEPTH = 3  # folders in folders that a release has
_MOST_FILES = 500
_SUFFIXES = (".pth", ".pt", ".pkl", ".t7", ".pd", ".pdparams", ".safetensors")


class Release:
    """A file, or the model files of a folder and of the folders in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[Path, Networks] = {}

    def only(self, wanted: Sequence[str], title: str) -> tuple[Networks, Path]:
        """The networks of the one file that has any of the wanted, and its path.

        AssetError if none has or several have.
        """
        fitting = []
        for found, file in self.having(wanted):
            fitting.append((found, file))
            if len(fitting) > 1:
                raise AssetError(
                    f"{self.path} has more than one {title} ({fitting[0][1].name}, {file.name}); "
                    "give the path of the one that is meant"
                )
        if fitting:
            return fitting[0]
        if self.path.is_dir():
            raise AssetError(
                f"{self.path} has no {title}{self._reason()}; give the path of its file"
            )
        raise AssetError(
            f"{self.path} holds {titles(self._read[self.path])}, not a {title}; give the other file"
        )

    def having(self, wanted: Sequence[str]) -> Iterator[tuple[Networks, Path]]:
        """Files with any of the wanted networks, in the order of their names."""
        for file in self._model_files():
            if file not in self._read:
                self._read[file] = read_networks(file)
            if any(network in self._read[file].tensors for network in wanted):
                yield self._read[file], file

    def _model_files(self) -> Iterator[Path]:
        """Files that begin as a model file does."""
        if not self.path.is_dir():
            yield self.path
            return
        for file in self._files():
            with open(file, "rb") as opened:
                start = opened.read(N_START)
            if is_safetensors(start, file.stat().st_size) or is_zip(start) or is_pickle(start):
                yield file

    def _files(self) -> list[Path]:
        found: list[Path] = []
        folders = [(self.path, 0)]
        while folders:
            here, depth = folders.pop()
            for entry in here.iterdir():
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() and depth < _DEPTH:
                    folders.append((entry, depth + 1))
                elif entry.is_file():
                    found.append(entry)
                if len(found) > _MOST_FILES:
                    raise AssetError(
                        f"{self.path} holds over {_MOST_FILES} files; give the model's own path"
                    )
        return sorted(found)

    def _reason(self) -> str:
        """What a file is whose name promises a model but whose content is none."""
        read = {file.name for file in self._read}
        for file in self._files():
            if file.suffix in _SUFFIXES and file.name not in read:
                with open(file, "rb") as opened:
                    start = opened.read(N_START)
                return f": {file.name} {what_instead(start, file.stat().st_size)}"
        return ""


def titles(networks: Networks) -> str:
    """What a file holds, in words."""
    found = [title for network, title in TITLES.items() if network in networks.tensors]
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))
