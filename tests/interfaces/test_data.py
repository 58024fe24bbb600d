# SPDX-License-Identifier: BSD-3-Clause
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import marglik
from marglik.interfaces.data import BadData, packed, read_frame, settled, unpacked
from marglik.interfaces.formula import build

rng = np.random.default_rng(5)
N = 24
COLUMNS = {
    "y": rng.standard_normal(N) * 10.0 ** rng.integers(-12, 12, N),
    "x": rng.standard_normal(N),
    "g": np.arange(N) % 5,
    "site": np.array(["Äl", "b", "c d"])[np.arange(N) % 3],
    "on": np.arange(N) % 2 == 0,
}
FRAME = pd.DataFrame(COLUMNS)


def _csv(folder):
    FRAME.to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def _tsv(folder):
    FRAME.to_csv(folder / "a.tsv", index=False, sep="\t")
    return str(folder / "a.tsv")


def _with_byte_order_mark(folder):
    FRAME.to_csv(folder / "a.csv", index=False, encoding="utf-8-sig")
    return folder / "a.csv"


def _parquet(folder):
    pa.parquet.write_table(pa.table(COLUMNS), folder / "a.parquet")
    return folder / "a.parquet"


def _pieces(folder):
    for i, rows in enumerate(np.array_split(np.arange(N), 3)):
        FRAME.iloc[rows].to_csv(folder / f"part{i}.csv", index=False)
    return str(folder / "part*.csv")


def _polars(_):
    return pl.DataFrame(COLUMNS)


def _nullable(_):
    return FRAME.convert_dtypes()


def _arrow_backed(_):
    return FRAME.convert_dtypes(dtype_backend="pyarrow")


SOURCES = {
    "pandas": lambda _: FRAME,
    "another index": lambda _: FRAME.set_axis(np.arange(N)[::-1], axis=0),
    "dict": lambda _: COLUMNS,
    "dict of lists": lambda _: {k: v.tolist() for k, v in COLUMNS.items()},
    "dict of series": lambda _: {k: pd.Series(v, np.arange(N)[::-1]) for k, v in COLUMNS.items()},
    "pyarrow": lambda _: pa.table(COLUMNS),
    "polars": _polars,
    "nullable": _nullable,
    "arrow-backed": _arrow_backed,
    "csv": _csv,
    "tsv": _tsv,
    "byte order mark": _with_byte_order_mark,
    "parquet": _parquet,
    "glob": _pieces,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_columns(name, tmp_path):
    frame = read_frame(SOURCES[name](tmp_path))
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame.index) == list(range(N))
    for column, expected in COLUMNS.items():
        found = settled(frame[column]).to_numpy()
        assert found.dtype.kind == expected.dtype.kind or (found.dtype.kind, expected.dtype.kind) == ("O", "U")
        np.testing.assert_array_equal(found, expected, err_msg=column)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_fit(name, tmp_path):
    formula = "log(abs(y)) ~ x*on + site + (1 | g)"
    fit = marglik.fit(formula, SOURCES[name](tmp_path))
    assert fit.log_evidence == marglik.fit(formula, FRAME).log_evidence
    assert fit.predict(SOURCES[name](tmp_path)).tolist() == fit.predict(FRAME).tolist()


def test_numbers_are_read_to_the_last_digit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 1.7976931348623157e308, 5e-324, 123456789.12345678]
    (tmp_path / "a.csv").write_text("v\n" + "\n".join(map(repr, values)))
    assert read_frame(tmp_path / "a.csv")["v"].tolist() == values


def test_text_in_the_last_row_of_a_long_column_makes_all_of_it_text(tmp_path):
    (tmp_path / "a.csv").write_text("g\n" + "7\n" * 300_000 + "x\n")
    assert set(read_frame(tmp_path / "a.csv")["g"]) == {"7", "x"}


KINDS = {
    "integers": ([3, 1], "number", [3, 1]),
    "floats": ([1.5, 2.0], "number", [1.5, 2.0]),
    "single precision": (np.array([0.1, 2], np.float32), "number", np.array([0.1, 2], np.float32)),
    "truth values": ([True, False], "bool", [True, False]),
    "text": (["ü", "a b"], "text", ["ü", "a b"]),
    "nullable integers": (pd.array([1, 2], "Int64"), "number", [1, 2]),
    "nullable truth values": (pd.array([True, False], "boolean"), "bool", [True, False]),
    "arrow floats": (pd.array([1.5, 2], pd.ArrowDtype(pa.float64())), "number", [1.5, 2.0]),
    "numbers as objects": (np.array([1, 2], object), "number", [1, 2]),
    "decimals": ([decimal.Decimal("1.5"), decimal.Decimal(2)], "number", [1.5, 2.0]),
    "mixture": (np.array(["a", 1], object), "text", ["a", "1"]),
    "dates": (pd.to_datetime(["2020-01-01", "2021-05-03"]), "text", ["2020-01-01 00:00:00", "2021-05-03 00:00:00"]),
    "categorical": (pd.Categorical(["b", "a"], ["c", "b", "a"]), "category of text", ["b", "a"]),
    "categorical of numbers": (pd.Categorical([3, 1], [3, 1]), "category of number", [3, 1]),
    "intervals": (pd.cut([1.0, 4.0], [0, 2, 5]), "category of text", ["(0, 2]", "(2, 5]"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_columns_settle_and_survive_packing(name):
    column, kind, expected = KINDS[name]
    found = settled(pd.Series(column))
    assert found.tolist() == list(expected)
    assert packed(found)[0] == kind
    parts = packed(found)[1]
    assert all(part.dtype != object for part in parts.values())
    again = pd.Series(unpacked(kind, parts.__getitem__))
    assert again.tolist() == list(expected)
    assert settled(again).tolist() == list(expected)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "float16", "float32", "bool", "int64"])
def test_numbers_become_as_wide_as_they_come(kind):
    """NumPy takes the logarithm of bytes in half precision, and multiplies them modulo 256."""
    column = pd.Series([1, 0, 100]).astype(kind)
    found = settled(column)
    assert found.dtype.itemsize == (1 if kind == "bool" else 8)
    assert found.tolist() == column.tolist()
    data = {"y": [1.0, 2.0, 4.0], "v": column}
    for response, expected in (("log1p(v)", np.log1p(column.astype(float))), ("I(v * v)", column.astype(float) ** 2)):
        model, _, _ = build(f"{response} ~ 1", data, marglik.Gaussian())
        assert model.rows.y.tolist() == expected.tolist()


def test_a_categorical_keeps_its_order_and_drops_what_does_not_occur():
    column = pd.Series(pd.Categorical(["mid", "low"], ["low", "mid", "high"]))
    assert settled(column).cat.categories.tolist() == ["low", "mid"]
    kind, parts = packed(settled(column))
    assert unpacked(kind, parts.__getitem__).categories.tolist() == ["low", "mid"]


def test_missing_values_stay_missing():
    assert settled(pd.Series(["a", None])).isna().tolist() == [False, True]
    assert settled(pd.Series(pd.array([1, None], "Int64"))).isna().tolist() == [False, True]
    assert settled(pd.Series(pd.to_datetime(["2020-01-01", None]))).isna().tolist() == [False, True]


FILES = {
    "empty.csv": ("", "'{path}' is empty."),
    "blank.csv": ("\n\n", "'{path}' is empty."),
    "header.csv": ("a,b\n", "'{path}' has a header but no rows, so there is nothing to learn from."),
    "ragged.csv": (
        "a,b\n1,2\n3,4,5\n",
        "'{path}': line 3 has 3 values, but the header names 2 columns. Correct that line; values with ',' inside "
        "need quotes.",
    ),
    "short.csv": (
        "a,b\n1,2\n\n3\n",
        "'{path}': line 4 has 1 values, but the header names 2 columns. Correct that line; values with ',' inside "
        "need quotes.",
    ),
    "twice.csv": ("a,b,a\n1,2,3\n", "'{path}' has several columns called 'a'. Rename them."),
    "semicolons.csv": (
        "a;b\n1;2\n",
        "'{path}' seems to separate its columns by semicolons. Save it with commas (or tabs, as .tsv), or pass a "
        "frame: pandas.read_csv(path, sep=';'), with decimal=',' if its numbers have commas for points.",
    ),
    "decimals.csv": (
        "a;b\n1,5;2\n",
        "'{path}' seems to separate its columns by semicolons. Save it with commas (or tabs, as .tsv), or pass a "
        "frame: pandas.read_csv(path, sep=';'), with decimal=',' if its numbers have commas for points.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_in_one_sentence(name, tmp_path):
    text, sentence = FILES[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadData) as refused:
        read_frame(path)
    assert str(refused.value) == sentence.format(path=path)


def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("größe\n1\n".encode("latin-1"))
    with pytest.raises(BadData, match=r"is not a text file in UTF-8\. Save it as CSV in UTF-8\.$"):
        read_frame(path)


def test_a_file_that_only_claims_to_be_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadData, match=r"a\.parquet' could not be read as Parquet: "):
        read_frame(path)


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "sleep.csv").write_text("a\n1\n")
    with pytest.raises(BadData) as refused:
        read_frame(tmp_path / "slep.csv")
    assert str(refused.value) == f"There is no file '{tmp_path}/slep.csv'. That folder has sleep.csv. Check the path."


def test_a_folder(tmp_path):
    with pytest.raises(BadData) as refused:
        read_frame(tmp_path)
    assert str(refused.value) == f"'{tmp_path}' is a folder. Give a file, or a pattern such as '{tmp_path}/*.csv'."


def test_a_pattern_without_files(tmp_path):
    with pytest.raises(BadData) as refused:
        read_frame(f"{tmp_path}/*.csv")
    assert str(refused.value) == f"No file matches '{tmp_path}/*.csv'. Check the folder and the pattern."


def test_files_read_together_need_the_same_columns(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("a,c\n1,2\n")
    with pytest.raises(BadData) as refused:
        read_frame(f"{tmp_path}/*.csv")
    assert str(refused.value) == (
        f"{tmp_path}/2.csv has the columns ['a', 'c'], but {tmp_path}/1.csv has ['a', 'b']. Files read together need "
        "the same columns."
    )


TABLES = {
    "no rows": (
        pd.DataFrame({"a": []}),
        "The data have no rows, so there is nothing to learn from. Check the file or the filter.",
    ),
    "empty dict": ({}, "The data have no rows, so there is nothing to learn from. Check the file or the filter."),
    "repeated": (
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        "The data have several columns called 'a'. Rename them.",
    ),
    "unequal": (
        {"a": [1, 2], "b": [1, 2, 3]},
        "The columns have different lengths: 'a' has 2, 'b' has 3. Give one value a row in each.",
    ),
    "single values": (
        {"a": 1.0},
        "The columns hold single values. Give one value a row in each, such as {'y': [1.0, 2.0]}.",
    ),
    "a matrix": ({"a": np.ones((3, 2))}, "Column 'a' has the shape (3, 2). Give one value a row."),
    "an array": (
        np.ones((3, 2)),
        "data is a ndarray, which is not a table. Give a pandas, polars or pyarrow frame, a dict of columns, or the "
        "path of a CSV or Parquet file.",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_bad_tables_are_refused_in_one_sentence(name):
    table, sentence = TABLES[name]
    with pytest.raises(BadData) as refused:
        read_frame(table)
    assert str(refused.value) == sentence


def test_repeated_names_in_an_arrow_table():
    with pytest.raises(BadData, match=r"several columns"):
        read_frame(pa.table([[1], [2]], names=["a", "a"]))


POLARS = {
    "as they come": pl.DataFrame,
    "levels as a categorical": lambda c: pl.DataFrame(c).with_columns(pl.col("site").cast(pl.Categorical)),
    "small integers": lambda c: pl.DataFrame(c).with_columns(pl.col("g").cast(pl.Int8)),
    "pyarrow": pa.table,
    "pyarrow, levels by number": lambda c: pa.table({**c, "site": pa.array(c["site"]).dictionary_encode()}),
}


@pytest.mark.parametrize("name", POLARS)
def test_fits_and_predictions_from_other_libraries(name, tmp_path):
    """What pandas gives, from the fit to the predictions, also by a fit that was saved."""
    columns = {**COLUMNS, "y": 3 * (np.arange(N) % 3) + COLUMNS["g"] * COLUMNS["x"] + np.sin(np.arange(N))}
    formula = "y ~ x + on + (1 | site) + (0 + x | g)"
    expected, fitted = (marglik.fit(formula, make(columns)) for make in (pd.DataFrame, POLARS[name]))
    assert not expected.hyperparameters["at_boundary"].any()
    close = {"rtol": 1e-7}  # a categorical's levels may stand in another order
    np.testing.assert_allclose(fitted.hyperparameters.astype(float), expected.hyperparameters.astype(float), **close)
    np.testing.assert_allclose(fitted.fixed_effects, expected.fixed_effects, **close)
    fitted.save(tmp_path / "fit")
    some = {k: v[:7] for k, v in columns.items() if k != "y"}
    some["g"] = np.array([0, 1, 99, 3, 4, 0, 1])
    for own in (fitted, marglik.load(tmp_path / "fit")):
        found = own.predict(POLARS[name](some), interval=0.9)
        np.testing.assert_allclose(found, expected.predict(pd.DataFrame(some), interval=0.9), **close)
        assert own.predict(POLARS[name](some)[:0]).shape == (0,)


def test_a_lazy_frame_is_to_be_collected():
    with pytest.raises(BadData) as refused:
        marglik.fit("y ~ 1", pl.LazyFrame({"y": [1.0, 2.0, 4.0]}))
    assert str(refused.value) == "data is a LazyFrame, which is not read yet. Give data.collect()."


def test_holes_in_polars_frames():
    holes = pl.DataFrame({"y": [1.0, 2.5, 2.0, 4.0, 3.5, 6.0], "g": ["a", None, "b", "b", "c", "c"]})
    with pytest.raises(ValueError, match=r"Column 'g' has no value \(NaN\) in row 1 "):
        marglik.fit("y ~ 1 + (1 | g)", holes)
    fitted = marglik.fit("y ~ 1 + (1 | g)", holes, missing="drop", fixed={"sd(Intercept | g)": 1.0})
    assert list(fitted.random_effects("g").index) == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"Column 'g' of the new data has no value \(NaN\) in row 1 "):
        fitted.predict(holes)
