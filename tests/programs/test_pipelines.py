from pathlib import Path

import pytest

from tests.programs.harness import Case, Oracle
from tests.programs.table import read_folder

CASES = read_folder(Path(__file__).with_name("pipelines"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_streams_are_shared_with_other_programs_as_at_home(oracle: Oracle, case: Case) -> None:
    oracle.compare(case)
