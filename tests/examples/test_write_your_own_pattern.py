"""The example of a pattern of one's own, which the docs quote."""

import pytest

from examples.write_your_own_pattern import main


def test_it_prints_what_the_pattern_changed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert "FloatDepthwisePattern   features.3.body.3          5\n" in printed
    assert "Q/DQ points: 35, with FloatDepthwisePattern 30\n" in printed
    assert printed.count("no longer quantized:") == 5
