# SPDX-License-Identifier: BSD-3-Clause
"""Tables from wherever they are: frames of any library, CSV and Parquet files; columns of plain kinds."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.validate import check_finite, is_number, listed, numbered

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame, Series


class BadData(ValueError):
    """Data that cannot be read, in one sentence."""


def read_frame(data: Any, empty: bool = False) -> DataFrame:
    """A pandas frame from one of pandas, polars or pyarrow, a dict of columns, or a path or glob of files.

    Parameters
    ----------
    data
        Where the columns are.
    empty
        Whether there may be no rows.

    Raises
    ------
    BadData
        The file is not there, is empty, has ragged rows, or is of no known kind.
    """
    import pandas as pd

    if isinstance(data, str | os.PathLike):
        return _read_files(str(data), empty)
    if isinstance(data, pd.DataFrame):
        frame = data
    elif isinstance(data, dict):
        frame = _from_columns(data)
    else:
        frame = _from_native(data)
    names = [str(c) for c in frame.columns]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise BadData(f"The data have several columns called {repeated!r}. Rename them.")
    if not len(frame) and not empty:
        raise BadData("The data have no rows, so there is nothing to learn from. Check the file or the filter.")
    if names == list(frame.columns) and frame.index.equals(pd.RangeIndex(len(frame))):
        return frame
    return frame.set_axis(names, axis=1).reset_index(drop=True)


def _from_columns(data: dict[Any, Any]) -> DataFrame:
    import pandas as pd

    lengths = {str(k): len(v) for k, v in data.items() if hasattr(v, "__len__") and not isinstance(v, str)}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
        raise BadData(f"The columns have different lengths: {shown}. Give one value a row in each.")
    if data and not lengths:
        raise BadData("The columns hold single values. Give one value a row in each, such as {'y': [1.0, 2.0]}.")
    deep = next((str(k) for k, v in data.items() if np.ndim(v) > 1), None)
    if deep is not None:
        raise BadData(f"Column {deep!r} has the shape {np.shape(data[deep])}. Give one value a row.")
    return pd.DataFrame({str(k): getattr(v, "array", v) for k, v in data.items()})


def _from_native(data: Any) -> DataFrame:
    import narwhals.stable.v1 as nw

    try:
        return nw.from_native(data, eager_only=True).to_pandas()
    except TypeError:
        if hasattr(data, "collect"):
            raise BadData(f"data is a {type(data).__name__}, which is not read yet. Give data.collect().") from None
        raise BadData(
            f"data is a {type(data).__name__}, which is not a table. Give a pandas, polars or pyarrow frame, "
            "a dict of columns, or the path of a CSV or Parquet file."
        ) from None
    except nw.exceptions.DuplicateError:
        raise BadData("The data have several columns of the same name. Rename them.") from None


def complete(
    columns: Mapping[str, Series], missing: str = "raise"
) -> tuple[dict[str, Series], Array | None, tuple[str, ...]]:
    """Settled copies of columns in rows without missing values; which rows these are if not all; notes.

    Raises
    ------
    ValueError
        A value is missing and ``missing="raise"``, none is left, or a number is infinite.
    """
    holes = {name: bad for name, column in columns.items() if (bad := _missing(column)) is not None}
    kept: Array | None = None
    notes: tuple[str, ...] = ()
    if holes:
        n = len(next(iter(holes.values())))
        if missing == "raise":
            name, bad = next(iter(holes.items()))
            raise ValueError(
                f"Column {name!r} has no value (NaN) in row {listed(np.flatnonzero(bad))} (rows count from 0). Use "
                "missing='drop' to leave such rows out, or fill the values in."
            )
        kept = np.flatnonzero(~np.any(list(holes.values()), axis=0))
        if not len(kept):
            raise ValueError("Every row has a missing value in a column that the formula uses, so no row is left.")
        notes = (f"{n - len(kept)} of {n} rows dropped: missing values",)
        columns = {name: column.iloc[kept].reset_index(drop=True) for name, column in columns.items()}
    out = {name: settled(column.copy()) for name, column in columns.items()}
    for name, column in out.items():
        if is_numeric(column) and not _whole(column):
            check_finite(column.to_numpy(float), [name], rows=kept, advice="Leave these rows out, or correct them.")
    return out, kept, notes


def _missing(column: Series) -> Array | None:
    """Which values are missing; None if there are none."""
    if _whole(column):
        return None
    bad = column.isna().to_numpy()
    return bad if bad.any() else None


def _whole(column: Series) -> bool:
    """Whether all are integers or truth values by their type."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "biu"


WIDE: dict[str, type] = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
"""Numbers of each kind as wide as they come: NumPy takes logarithms of bytes in half precision, and differences of
numbers without a sign wrap."""


def settled(column: Series) -> Series:
    """A column as numbers, truth values, text or an ordered categorical of these, whatever library it is of.

    A categorical keeps the order of its categories, less those that do not occur. Dates, intervals and
    mixtures become text.
    """
    import pandas as pd

    if not isinstance(column.dtype, pd.CategoricalDtype):
        return _plain_values(column)
    codes = column.cat.codes.to_numpy()
    if not np.bincount(codes[codes >= 0], minlength=len(column.cat.categories)).all():
        column = column.cat.remove_unused_categories()
    column = column.cat.as_ordered()
    categories = pd.Series(column.cat.categories)
    plain = _plain_values(categories)
    return column if plain is categories else column.cat.rename_categories(plain.tolist())


def _plain_values(column: Series) -> Series:
    import pandas as pd

    if isinstance(column.dtype, np.dtype) and column.dtype.kind in WIDE:
        wide = WIDE[column.dtype.kind]
        if column.dtype.kind == "u" and column.max() > np.iinfo(np.int64).max:
            wide = np.float64
        return column if column.dtype == wide else column.astype(wide)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "complex":
        raise BadData(
            f"Column {column.name!r} holds complex numbers. Give their real and imaginary parts, or their size."
        )
    if kind == "string":
        return column
    if kind == "boolean":
        return column.astype(bool) if not column.isna().any() else column.astype(object)
    if kind in {"integer", "floating", "mixed-integer-float", "decimal"}:
        whole = kind == "integer" and not column.isna().any()
        return pd.Series(column.to_numpy(int if whole else float, na_value=np.nan), column.index)
    return column.map(str, na_action="ignore").astype(object)


def refuse_dates(frame: DataFrame, names: set[str]) -> None:
    """Raise where one of these columns holds dates or times."""
    from pandas.api.types import infer_dtype

    for name in sorted(names & set(frame.columns)):
        if infer_dtype(frame[name]).startswith(("date", "time")):
            raise BadData(
                f"Column {name!r} holds dates or times, which a term or response cannot use. Turn it into numbers, "
                "such as days since the first."
            )


def numbers(column: Any, name: str, what: str, rows: Array | None = None) -> Array:
    """A settled column as floats; raises naming the first row that is no number, ``rows`` as in `numbered`."""
    if not is_numeric(column):
        text = [i for i, v in enumerate(column) if not is_number(v)]
        place = text[0] if text else 0
        row = numbered(np.array(place), rows)
        raise ValueError(
            f"The {what} {name!r} must be numbers, but holds {str(column.iloc[place])!r} in row {row} (rows count from "
            "0). Convert the column, or correct that value."
        )
    return column.to_numpy(float)


def is_numeric(column: Any) -> bool:
    """Whether a settled column holds numbers or truth values."""
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column)


def refuse_missing(column: Any) -> None:
    """Raise naming the rows of new data that have no value."""
    bad = _missing(column)
    if bad is not None:
        raise ValueError(
            f"Column {column.name!r} of the new data has no value (NaN) in row {listed(np.flatnonzero(bad))} (rows "
            "count from 0). Leave such rows out, or fill the values in."
        )


def as_fitted(column: Any, fitted: Any) -> Any:
    """A column of new data, of the kind that the fit saw under its name."""
    refuse_missing(column)
    name, new = column.name, settled(column)
    if is_numeric(fitted):
        numbers(new, name, "column")
    elif not hasattr(fitted, "cat") and is_numeric(new):
        return new.map(str)
    return new


def packed(column: Series) -> tuple[str, dict[str, Array]]:
    """A settled column's kind, and arrays that need no pickle."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        kind, categories = packed(pd.Series(column.cat.categories))
        return f"category of {kind}", {
            "codes": column.cat.codes.to_numpy(),
            "categories": categories["values"],
        }
    if pd.api.types.is_bool_dtype(column):
        return "bool", {"values": column.to_numpy(bool)}
    if pd.api.types.is_numeric_dtype(column):
        return "number", {"values": column.to_numpy()}
    return "text", {"values": column.to_numpy(str)}


def unpacked(kind: str, part: Callable[[str], Array]) -> Any:
    """The column that `packed` took apart."""
    import pandas as pd

    if kind.startswith("category"):
        categories = unpacked(kind.removeprefix("category of "), lambda _: part("categories"))
        return pd.Categorical.from_codes(part("codes"), categories=categories, ordered=True)
    return part("values")


def _read_files(pattern: str, empty: bool) -> DataFrame:
    import pandas as pd

    paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not paths:
        raise BadData(f"No file matches {pattern!r}. Check the folder and the pattern.")
    frames = [_read_file(Path(p), empty) for p in paths]
    for path, frame in zip(paths[1:], frames[1:], strict=True):
        if list(frame.columns) != list(frames[0].columns):
            raise BadData(
                f"{path} has the columns {list(frame.columns)}, but {paths[0]} has "
                f"{list(frames[0].columns)}. Files read together need the same columns."
            )
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _read_file(path: Path, empty: bool) -> DataFrame:
    import pandas as pd

    if not path.exists():
        near = [p.name for p in path.parent.glob(f"*{path.suffix}")][:3] if path.parent.is_dir() else []
        hint = f" That folder has {', '.join(near)}." if near else ""
        raise BadData(f"There is no file {str(path)!r}.{hint} Check the path.")
    if path.is_dir():
        raise BadData(f"{str(path)!r} is a folder. Give a file, or a pattern such as '{path}/*.csv'.")
    if path.stat().st_size == 0:
        raise BadData(f"{str(path)!r} is empty.")
    if path.suffix.lower() in {".parquet", ".pq"}:
        try:
            frame = pd.read_parquet(path)
        except ImportError:
            raise BadData(f"Reading {str(path)!r} needs pyarrow: pip install 'marglik[parquet]'.") from None
        except Exception as error:
            raise BadData(f"{str(path)!r} could not be read as Parquet: {error}") from None
    else:
        frame = _read_csv(path)
    if not len(frame) and not empty:
        raise BadData(f"{str(path)!r} has a header but no rows, so there is nothing to learn from.")
    return frame


def _read_csv(path: Path) -> DataFrame:
    """A CSV or tab-separated file; numbers to the last digit, ragged rows refused."""
    import csv

    import pandas as pd

    separator = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ","
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, delimiter=separator)
            header = next((row for row in reader if row), [])
            _check_separator(path, header)
            for row in reader:
                if row and len(row) != len(header):
                    raise BadData(
                        f"{str(path)!r}: line {reader.line_num} has {len(row)} values, but the header names "
                        f"{len(header)} columns. Correct that line; values with {separator!r} inside need quotes."
                    )
    except UnicodeDecodeError:
        raise BadData(f"{str(path)!r} is not a text file in UTF-8. Save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise BadData(f"{str(path)!r}: line {reader.line_num} could not be read as CSV ({error}).") from None
    if not any(name.strip() for name in header):
        raise BadData(f"{str(path)!r} is empty.")
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise BadData(f"{str(path)!r} has several columns called {sorted(repeated)[0]!r}. Rename them.")
    # From 3.1 on, pandas reads numbers to the last digit unasked.
    exact: dict[str, Any] = {} if _version(pd) >= (3, 1) else {"float_precision": "round_trip"}
    try:
        return pd.read_csv(path, sep=separator, encoding="utf-8-sig", low_memory=False, index_col=False, **exact)
    except pd.errors.ParserError as error:
        raise BadData(f"{str(path)!r} could not be read as CSV: {str(error).strip()}.") from None


def _check_separator(path: Path, header: list[str]) -> None:
    """A header of one name that has another separator inside is of a file that is separated by that."""
    found = next((c for c in ";\t|" if len(header) == 1 and c in header[0]), None)
    if found:
        words = {";": "semicolons", "\t": "tabs", "|": "bars"}[found]
        raise BadData(
            f"{str(path)!r} seems to separate its columns by {words}. Save it with commas (or tabs, as .tsv), or pass "
            f"a frame: pandas.read_csv(path, sep={found!r}), with decimal=',' if its numbers have commas for points."
        )


def _version(package: Any) -> tuple[int, int]:
    major, minor = package.__version__.split(".")[:2]
    return int(major), int(minor)
