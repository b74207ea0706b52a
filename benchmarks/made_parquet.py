"""Small Parquet files of many types, encodings, codecs and page formats, the same bytes at each call."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 90
WORDS = ("red", "blue", "grün", "", "a longer piece of text that no dictionary makes short", "x")


def made_files() -> dict[str, bytes]:
    """Name → bytes of each file; all have a column `y` of labels."""
    random = np.random.default_rng(7)
    numbers, words, nested = numeric(random), textual(random), lists(random)
    encodings: dict[str, tuple[pa.Table, dict[str, Any]]] = {
        "numbers": (numbers, {}),
        "numbers plain": (numbers, {"use_dictionary": False, "compression": "none"}),
        "numbers checked": (numbers, {"write_page_checksum": True, "use_dictionary": False}),
        "numbers zstd v2": (numbers, {"compression": "zstd", "data_page_version": "2.0"}),
        "numbers gzip": (numbers, {"compression": "gzip", "write_page_index": True}),
        "numbers lz4": (numbers, {"compression": "lz4", "version": "1.0"}),
        "numbers delta": (
            numbers.select(["i32", "i64", "y"]),
            {"use_dictionary": False, "column_encoding": dict.fromkeys(["i32", "i64"], "DELTA_BINARY_PACKED")},
        ),
        "numbers split": (
            numbers.select(["f32", "f64", "y"]),
            {"use_dictionary": False, "column_encoding": dict.fromkeys(["f32", "f64"], "BYTE_STREAM_SPLIT")},
        ),
        "words": (words, {}),
        "words plain": (words, {"use_dictionary": False, "compression": "none"}),
        "words checked": (words, {"write_page_checksum": True, "compression": "zstd"}),
        "words v2": (words, {"data_page_version": "2.0", "compression": "brotli"}),
        "words delta": (
            words.select(["s", "b", "y"]),
            {"use_dictionary": False, "column_encoding": {"s": "DELTA_BYTE_ARRAY", "b": "DELTA_LENGTH_BYTE_ARRAY"}},
        ),
        "words small pages": (words, {"data_page_size": 64, "write_batch_size": 8, "dictionary_pagesize_limit": 100}),
        "lists": (nested, {}),
        "lists plain v2": (nested, {"use_dictionary": False, "data_page_version": "2.0", "compression": "none"}),
        "lists checked": (nested, {"write_page_checksum": True, "compression": "gzip"}),
        "times": (times(random), {"coerce_timestamps": None}),
        "times int96": (times(random).drop_columns(["td"]), {"use_deprecated_int96_timestamps": True}),
        "decimals": (decimals(random), {}),
        "decimals as integers": (decimals(random), {"store_decimal_as_integer": True, "compression": "none"}),
        "without schema": (words, {"store_schema": False}),
    }
    return {name: written(table, options) for name, (table, options) in encodings.items()}


def written(table: pa.Table, options: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"row_group_size": 40, "compression": "snappy"} | options)
    return sink.getvalue()


def labels(random: np.random.Generator) -> pa.Array:
    return pa.array(random.random(ROWS) < 0.4)


def some_null(values: Any, random: np.random.Generator, kind: pa.DataType) -> pa.Array:
    """An array of a type with a tenth of its values null."""
    missing = random.random(ROWS) < 0.1
    return pa.array([None if none else value for value, none in zip(values, missing, strict=True)], kind)


def numeric(random: np.random.Generator) -> pa.Table:
    columns = {"f32": pa.array(random.normal(size=ROWS).astype(np.float32))}
    columns["f64"] = some_null(random.normal(size=ROWS).tolist(), random, pa.float64())
    for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()):
        name = str(kind).replace("uint", "u").replace("int", "i")
        columns[name] = some_null(random.integers(0, 100, ROWS).tolist(), random, kind)
    columns["flag"] = some_null((random.random(ROWS) < 0.5).tolist(), random, pa.bool_())
    columns["half"] = pa.array(random.normal(size=ROWS).astype(np.float16))
    return pa.table(columns | {"y": labels(random)})


def textual(random: np.random.Generator) -> pa.Table:
    texts = [WORDS[place] for place in random.integers(0, len(WORDS), ROWS)]
    columns = {
        "s": some_null(texts, random, pa.string()),
        "large": pa.array([f"row {row}" for row in range(ROWS)], pa.large_string()),
        "d": pa.array(texts).dictionary_encode(),
        "b": pa.array([text.encode() for text in texts], pa.binary()),
        "fixed": pa.array([f"{row:04}".encode() for row in range(ROWS)], pa.binary(4)),
        "nothing": pa.nulls(ROWS),
        "x": pa.array(random.normal(size=ROWS)),
    }
    return pa.table(columns | {"y": labels(random)})


def lists(random: np.random.Generator) -> pa.Table:
    lengths = random.integers(0, 4, ROWS)
    tags = [[WORDS[place] for place in random.integers(0, 4, length)] for length in lengths]
    indices = [sorted(random.choice(9, length, replace=False).tolist()) for length in lengths]
    values = [random.normal(size=length).tolist() for length in lengths]
    columns = {
        "tags": some_null(tags, random, pa.list_(pa.string())),
        "sparse_indices": pa.array(indices, pa.list_(pa.int32())),
        "sparse_values": pa.array(values, pa.list_(pa.float32())),
        "vector": pa.array(random.normal(size=(ROWS, 3)).tolist(), pa.list_(pa.float32(), 3)),
        "pair": pa.array([{"a": row, "b": [str(row)]} for row in range(ROWS)]),
        "map": pa.array([[("k", row)] for row in range(ROWS)], pa.map_(pa.string(), pa.int64())),
        "x": pa.array(random.normal(size=ROWS)),
    }
    return pa.table(columns | {"y": labels(random)})


def times(random: np.random.Generator) -> pa.Table:
    moments = [dt.datetime(2020, 1, 1) + dt.timedelta(hours=int(hours)) for hours in random.integers(0, 9_999, ROWS)]
    columns = {
        "day": some_null([moment.date() for moment in moments], random, pa.date32()),
        "us": some_null(moments, random, pa.timestamp("us")),
        "utc": pa.array(moments, pa.timestamp("ms", "UTC")),
        "ns": pa.array(moments, pa.timestamp("ns")),
        "clock": pa.array([moment.time() for moment in moments], pa.time64("us")),
        "td": pa.array([dt.timedelta(hours=row) for row in range(ROWS)], pa.duration("us")),
    }
    return pa.table(columns | {"y": labels(random)})


def decimals(random: np.random.Generator) -> pa.Table:
    numbers = [Decimal(int(number)) / 100 for number in random.integers(-9_999, 9_999, ROWS)]
    columns = {
        "small": some_null(numbers, random, pa.decimal128(7, 2)),
        "middle": pa.array(numbers, pa.decimal128(17, 2)),
        "large": pa.array(numbers, pa.decimal128(38, 4)),
        "huge": pa.array(numbers, pa.decimal256(50, 2)),
    }
    return pa.table(columns | {"y": labels(random)})
