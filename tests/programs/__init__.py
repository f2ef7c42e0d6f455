import pytest

# Its assertions are to say what differs, as those of the tests do.
pytest.register_assert_rewrite("tests.programs.harness")
