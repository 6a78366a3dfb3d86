"""What clients say of what they refuse, without the messages that they print."""

from __future__ import annotations

import pytest

from controlplane.xds.protocol import reason

PRINTED = 'goo.gle/debugonly    \nname: "a: b\\n: c"\nfilters {\n  key: "secret"\n}\n: '


@pytest.mark.parametrize(
    ("said", "is_left"),
    [
        pytest.param("unknown cluster 'a'", "unknown cluster 'a'", id="none"),
        pytest.param(f"{PRINTED}it is wrong", "it is wrong", id="one"),
        pytest.param(f"x a: {PRINTED}too small, b: {PRINTED}too large", "x a: too small, b: too large", id="two"),
        pytest.param(
            "bad: goo.gle/debugstr \nseconds: -1", "bad: goo.gle/debugstr \nseconds: -1", id="nothing after it"
        ),
        pytest.param("", "", id="nothing at all"),
    ],
)
def test_messages_are_left_out(said: str, is_left: str) -> None:
    assert reason(said) == is_left
