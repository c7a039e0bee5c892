"""Columns of Parquet files: one is an array of shape (N,), several are the columns of one of shape (N, k)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastloss.files.source import FileError, check_numbers, guest, in_blocks


class Parquet:
    """Columns of a Parquet file, in the order in which they are named."""

    def __init__(self, name: str, path: str, columns: str) -> None:
        self._arrow, self._parquet = guest("pyarrow", name), guest("pyarrow.parquet", name)
        self.name, self._path = name, path
        self._columns = [column.strip() for column in columns.split(",") if column.strip()]
        with self._opened() as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        if columns in schema.names:  # one, whatever commas are in its name
            self._columns = [columns]
        if not self._columns:
            example = f"{name.removesuffix(':')}:{schema.names[0] if schema.names else 'x'},..."
            raise FileError(f"{name}: name columns, as in {example}")
        for column in self._columns:
            count = schema.names.count(column)
            if count != 1:
                found = f"{count} columns" if count else "no column"
                raise FileError(f"{name}: {found} {column!r}; it has {', '.join(schema.names)}")
        self.dtype = np.result_type(*(self._dtype(schema.field(column)) for column in self._columns))
        self.shape: tuple[int, ...] = (rows,) if len(self._columns) == 1 else (rows, len(self._columns))

    def blocks(self, rows: int) -> Iterator[Any]:
        """Yield the columns in blocks of `rows` rows."""
        return in_blocks(self._pieces(rows), rows)

    def whole(self) -> Any:
        """Return the columns."""
        return np.concatenate([*self._pieces(1 << 16), np.empty((0, *self.shape[1:]), self.dtype)])

    def _pieces(self, rows: int) -> Iterator[Any]:
        try:
            with self._opened() as file:
                for batch in file.iter_batches(batch_size=rows, columns=list(dict.fromkeys(self._columns))):
                    yield self._numbers(batch)
        except self._arrow.ArrowException as error:
            raise FileError(f"{self.name}: damaged ({str(error).splitlines()[0]})") from None

    def _numbers(self, batch: Any) -> Any:
        block = np.empty((batch.num_rows, *self.shape[1:]), self.dtype)
        for number, column in enumerate(self._columns):
            values = batch.column(column)
            if values.null_count:
                raise FileError(f"{self.name}: column {column!r} has missing values")
            block[(slice(None), number)[: block.ndim]] = values.to_numpy(zero_copy_only=False)
        return block

    def _opened(self) -> Any:
        try:
            return self._parquet.ParquetFile(self._path, memory_map=True)
        except self._arrow.ArrowException as error:
            raise FileError(f"{self.name}: no Parquet file, or a damaged one ({str(error).splitlines()[0]})") from None

    def _dtype(self, field: Any) -> np.dtype[Any]:
        try:
            dtype: np.dtype[Any] = np.dtype(field.type.to_pandas_dtype())
        except (NotImplementedError, TypeError):
            dtype = np.dtype(object)
        check_numbers(f"{self.name}, column {field.name!r}", dtype, field.type)
        return dtype
