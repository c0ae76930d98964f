"""Tables of numbers in CSV files of every dialect: commas, semicolons, tabs; UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from assets.errors import AssetError

_LARGEST = 512 * 2**20  # bytes
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells, as text without surrounding blanks."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]  # of each row, from 1
    decimal_comma: bool  # whether 0,5 is a number in it

    def numbers(self, column: int) -> list[float]:
        """A column as finite numbers; the first cell that is none is an AssetError."""
        return [self._number(k, column) for k in range(len(self.rows))]

    def _number(self, row: int, column: int) -> float:
        text = self.rows[row][column]
        try:
            value = float(text.replace(",", ".") if self.decimal_comma else text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            what = f"{text[:40]!r}, which is no number" if text else "nothing"
            raise AssetError(
                f"{self.path} has {what}, under {self.header[column]} in line {self.lines[row]}; "
                "mend or remove that line"
            )
        return value


def read_table(path: Path) -> Table:
    """The table in a file; blank lines and empty cells after the last column are left aside."""
    lines = _text(path).splitlines()
    # Excel writes the delimiter on a line of its own
    first = lines[0].strip().lower() if lines else ""
    skipped = 1 if first.startswith("sep=") else 0
    head = next((line for line in lines[skipped:] if line.strip()), "")
    if not head:
        raise AssetError(f"{path} is empty; give a CSV with a header and a line a frame")
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.reader(lines[skipped:], delimiter=delimiter)
    header: tuple[str, ...] = ()
    rows, numbers = [], []
    try:
        for cells in reader:
            row = tuple(cell.strip() for cell in cells)
            if not any(row):
                continue
            if not header:
                header = _without_tail(row, 0)
                continue
            row = _without_tail(row, len(header))
            if len(row) != len(header):
                raise AssetError(
                    f"{path} has {len(row)} cells in line {reader.line_num + skipped} and "
                    f"{len(header)} columns in its header; mend or remove that line"
                )
            rows.append(row)
            numbers.append(reader.line_num + skipped)
    except csv.Error as error:
        raise AssetError(
            f"{path} is no CSV from line {reader.line_num + skipped} on ({error}); export it again"
        ) from error
    return Table(path, header, tuple(rows), tuple(numbers), delimiter != ",")


def _without_tail(row: tuple[str, ...], least: int) -> tuple[str, ...]:
    """The row without empty cells at its end, down to so many."""
    end = len(row)
    while end > least and not row[end - 1]:
        end -= 1
    return row[:end]


def _text(path: Path) -> str:
    if not path.is_file():
        raise AssetError(f"{path} is not there; give the path of a CSV file")
    if path.stat().st_size > _LARGEST:
        raise AssetError(f"{path} is larger than {_LARGEST // 2**20} MB; cut it into takes")
    content = path.read_bytes()
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise AssetError(f"{path} is no text ({error.reason}); export it as UTF-8 CSV") from error
    if "\0" in text:
        raise AssetError(f"{path} is no text, it holds zero bytes; export it as CSV")
    return text
