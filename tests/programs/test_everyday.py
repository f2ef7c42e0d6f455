from pathlib import Path

import pytest

from tests.programs.harness import Case, Oracle
from tests.programs.table import read_folder

CASES = read_folder(Path(__file__).with_name("everyday"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_a_program_does_on_a_node_what_it_does_at_home(oracle: Oracle, case: Case) -> None:
    oracle.compare(case)
