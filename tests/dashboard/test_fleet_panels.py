from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from dashboard import fleet_panels
from dashboard import format as fmt

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize("passed", [-5, 0, 0.4, 59, 119.9, 120, 7199, 7200, 86_399, 86_400, 900_000])
def test_the_age_column_says_what_the_age_of_one_says(passed):
    moment = NOW - timedelta(seconds=passed)
    column = pa.chunked_array([pa.array([moment, None, moment], type=pa.timestamp("ms", tz="UTC"))])
    assert fleet_panels._ages(column, NOW).to_pylist() == [fmt.age(moment, NOW), fmt.DASH, fmt.age(moment, NOW)]


def test_only_containers_with_a_gpu_have_words_about_it():
    column = fleet_panels._gpu_column(
        pa.chunked_array([[["0", "1"], [], None, ["3"]]], type=pa.list_(pa.string())),
        pa.chunked_array([["measured", "", None, "declared"]], type=pa.string()),
    )
    assert column.to_pylist() == ["0,1 ●", "", "", "3 ○"]
