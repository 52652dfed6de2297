"""The fast subset has tests of every folder."""

from tests.quick import QUICK, ROOT, is_quick


def test_every_folder_of_tests_has_a_quick_file() -> None:
    files = {path: is_quick(path) for path in ROOT.rglob("test_*.py")}
    quick = {path.parent for path, chosen in files.items() if chosen}
    assert {path.parent for path in files} == quick
    assert sum(files.values()) == len(QUICK)  # each that is listed is there, once
