# SPDX-License-Identifier: BSD-3-Clause
"""Tables from wherever they are: frames of any library, CSV and Parquet files."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


class BadData(ValueError):
    """Data that cannot be read, in one sentence."""


def read_frame(data: Any) -> DataFrame:
    """A pandas frame from a pandas, polars or pyarrow frame, a mapping of columns, or a path or glob of files.

    Raises
    ------
    BadData
        The file is not there, is empty, has ragged rows, or is of no known kind.
    """
    import pandas as pd

    if isinstance(data, str | os.PathLike):
        return _read_files(str(data))
    if isinstance(data, pd.DataFrame):
        frame = data
    elif isinstance(data, dict):
        lengths = {len(v) for v in data.values() if hasattr(v, "__len__") and not isinstance(v, str)}
        if len(lengths) > 1:
            raise BadData(f"The columns have different lengths: {sorted(lengths)}. Give one value a row in each.")
        frame = pd.DataFrame(data)
    else:
        import narwhals.stable.v1 as nw

        try:
            frame = nw.from_native(data, eager_only=True).to_pandas()
        except TypeError:
            raise BadData(
                f"data is a {type(data).__name__}, which is not a table. Give a pandas, polars or pyarrow frame, a "
                "dict of columns, or the path of a CSV or Parquet file."
            ) from None
    if not len(frame):
        raise BadData("The data have no rows, so there is nothing to learn from. Check the file or the filter.")
    return frame.reset_index(drop=True)


def _read_files(pattern: str) -> DataFrame:
    import pandas as pd

    paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not paths:
        raise BadData(f"No file matches {pattern!r}. Check the folder and the pattern.")
    frames = [_read_file(Path(p)) for p in paths]
    for path, frame in zip(paths[1:], frames[1:], strict=True):
        if list(frame.columns) != list(frames[0].columns):
            raise BadData(
                f"{path} has the columns {list(frame.columns)}, but {paths[0]} has {list(frames[0].columns)}. "
                "Files read together need the same columns."
            )
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _read_file(path: Path) -> DataFrame:
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
    if not len(frame):
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
            header = next(reader, [])
            for row in reader:
                if row and len(row) != len(header):
                    raise BadData(
                        f"{str(path)!r}: line {reader.line_num} has {len(row)} values, but the header names "
                        f"{len(header)} columns. Correct that line; values with {separator!r} inside need quotes."
                    )
    except UnicodeDecodeError:
        raise BadData(f"{str(path)!r} is not a text file in UTF-8. Save it as CSV in UTF-8.") from None
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise BadData(f"{str(path)!r} has several columns called {sorted(repeated)[0]!r}. Rename them.")
    return pd.read_csv(
        path, sep=separator, float_precision="round_trip", encoding="utf-8-sig", skip_blank_lines=True
    )
