"""Parquet files as pyarrow writes them, the same table in each, and its rows as plain data.

    python3 -m venv .venv && .venv/bin/pip install pyarrow==26.0.1
    .venv/bin/python scripts/golden/parquet.py            # writes test/data/parquet
"""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parents[2] / "test" / "data" / "parquet"
ROWS = 97
WORDS = ["water", "acid", "café", "語", "emoji 😀", "", "line\nbreak", "a \"quote\"", "x" * 70]


def word(i: int) -> str:
    return WORDS[(i * 7 + i // 5) % len(WORDS)]


def row(i: int) -> dict:
    return {
        "prompt": f"{i}: {word(i)}",
        "completion": None if i % 11 == 3 else word(i + 1),
        "messages": None if i % 13 == 5 else [
            {"role": "user" if turn % 2 == 0 else "assistant", "content": None if (i + turn) % 17 == 4 else word(i + turn)}
            for turn in range(i % 5)
        ],
        "choices": [None if (i + j) % 6 == 0 else word(j) for j in range(i % 4)],
        "nested": None if i % 7 == 2 else [[j * i for j in range(k)] for k in range(i % 3)],
        "source": None if i % 9 == 1 else {"name": word(i + 2), "page": None if i % 4 == 0 else i, "tags": ["t"] * (i % 3)},
        "counts": {f"k{j}": i + j for j in range(i % 3)},
        "id": i * i,
        "large": 2**53 - 40 + i,
        "small": None if i % 5 == 0 else i - 50,
        "score": i / 8 - 3,
        "weight": i * 0.25,
        "flag": i % 3 == 0,
        "maybe": None if i % 4 == 1 else i % 2 == 0,
        "day": datetime.date(2024, 1, 1) + datetime.timedelta(days=i),
        "time": datetime.datetime(2024, 5, 6, 7, 8, 9, 123000) + datetime.timedelta(hours=i),
        "bytes": word(i).encode(),
        "empty": None,
    }


SCHEMA = pa.schema([
    pa.field("prompt", pa.string(), nullable=False),
    ("completion", pa.string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    pa.field("choices", pa.list_(pa.string()), nullable=False),
    ("nested", pa.list_(pa.list_(pa.int32()))),
    ("source", pa.struct([("name", pa.string()), ("page", pa.int64()), ("tags", pa.list_(pa.string()))])),
    ("counts", pa.map_(pa.string(), pa.int32())),
    pa.field("id", pa.int64(), nullable=False),
    ("large", pa.int64()),
    ("small", pa.int16()),
    ("score", pa.float64()),
    ("weight", pa.float32()),
    pa.field("flag", pa.bool_(), nullable=False),
    ("maybe", pa.bool_()),
    ("day", pa.date32()),
    ("time", pa.timestamp("us", tz="UTC")),
    ("bytes", pa.binary()),
    ("empty", pa.string()),
])

# 6 rows or so a page, so that lists go on from page to page.
SMALL = {"data_page_size": 64, "write_batch_size": 6, "row_group_size": 41}
DELTA = {
    "prompt": "DELTA_BYTE_ARRAY", "completion": "DELTA_LENGTH_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED",
    "small": "DELTA_BINARY_PACKED", "score": "BYTE_STREAM_SPLIT", "weight": "BYTE_STREAM_SPLIT", "maybe": "RLE",
}
FILES = {
    "plain": {"compression": "none", "use_dictionary": False},
    "snappy": {"compression": "snappy"},
    "snappy-pages": {"compression": "snappy", **SMALL},
    "gzip-pages": {"compression": "gzip", "data_page_version": "2.0", "write_page_checksum": True, **SMALL},
    "zstd": {"compression": "zstd", "data_page_version": "2.0"},
    "zstd-pages": {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True, **SMALL},
    "brotli": {"compression": "brotli"},
    "lz4-pages": {"compression": "lz4", **SMALL},
    "encodings": {"compression": "zstd", "use_dictionary": False, "column_encoding": DELTA},
    "encodings-pages": {
        "compression": "none", "use_dictionary": False, "column_encoding": DELTA, "data_page_version": "2.0", **SMALL,
    },
}


def plain(value: object) -> object:
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, datetime.date):
        return f"{value.isoformat()}T00:00:00.000Z"
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int) and abs(value) >= 2**53:
        return str(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def main() -> None:
    rows = [row(i) for i in range(ROWS)]
    table = pa.Table.from_pylist([{**r, "counts": list(r["counts"].items())} for r in rows], SCHEMA)
    FOLDER.mkdir(exist_ok=True)
    for name, options in FILES.items():
        pq.write_table(table, FOLDER / f"{name}.parquet", store_schema=False, **options)
    (FOLDER / "rows.json").write_text(json.dumps([plain(r) for r in rows], ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
