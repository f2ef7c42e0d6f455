from mlaunch.suggest import meant, unknown_node


def test_what_is_most_alike_is_suggested() -> None:
    assert meant("docotr", ["doctor", "daemon", "nodes"]) == "did you mean doctor?"
    assert meant("--onyl", ["--node", "--only", "-n"]) == "did you mean --only?"
    assert meant("n3", ["n1", "n2", "far"]) == "did you mean n1 or n2?"
    assert meant("n9", [f"n{number}" for number in range(1, 9)]) == "did you mean n1, n2 or n3?"


def test_what_is_not_alike_is_not_suggested() -> None:
    assert meant("xyz", ["doctor", "n1"]) == ""
    assert meant("", ["doctor"]) == ""
    assert meant("n1", []) == ""
    assert meant("--foo", ["--node", "--only"]) == ""


def test_an_unknown_node_has_a_hint_in_any_case() -> None:
    assert str(unknown_node("n3", ["n2"])) == "no node n3 (did you mean n2?)"
    assert str(unknown_node("far", ["n2", "n1"])) == "no node far (known are: n1, n2)"
    assert str(unknown_node("hme", [], ["home"])) == "no node hme (did you mean home?)"
    assert str(unknown_node("n1", [])) == "no node n1 (to add it: mlaunch nodes add n1 HOST)"
