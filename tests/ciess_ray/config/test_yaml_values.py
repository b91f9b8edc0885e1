import contextlib
import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ciess_ray.config.yaml_values import read_yaml
from envs.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("[1E5, -1e+2, 1.5e-3]", [100_000.0, -100.0, 0.0015]),
        ("[1., .5, -.5, +3, 1_000]", [1.0, 0.5, -0.5, 3, 1000]),
        ("[010, 0x1F, 0o17]", [10, 31, 15]),
        ("[.inf, -.INF]", [math.inf, -math.inf]),
        ("[yes, No, true, off]", [True, False, True, False]),
        ("[~, null, ]", [None, None]),
        # Sexagesimal numbers, dates and a value named = are of YAML 1.1.
        ("[20:1, 2020-01-01, =, 1e, e3, 5%, 1.2.3]", ["20:1", "2020-01-01", "=", "1e", "e3", "5%", "1.2.3"]),
        ("'1e-4'", "1e-4"),
        ("", None),
        ("a: &a {l: 1, m: 1}\nb: {<<: *a, m: 2}", {"a": {"l": 1, "m": 1}, "b": {"l": 1, "m": 2}}),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    read = read_yaml(text)
    assert read == value and repr(read) == repr(value)


def aliases(num_lines, num_each):
    """Every line is a list of so many times the line before."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * num_each)}]" for i in range(1, num_lines)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' stands twice, in line 1 and in line 3; keep one"),
        ("x:\n- b: [{c: 1, d: 2,\n  c: 3}]", "the key 'c' stands twice, in line 2 and in line 3"),
        ("a: {<<: {b: 1, b: 2}}", "the key 'b' stands twice"),
        ("a: 1\n5: 2", "line 2: the key '5' is no text; put it into quotation marks"),
        ("[a]: 2", "line 1: the key that is a list or a section is no text"),
        ("9" * 5000, "line 1: '9{40}' is a whole number of more than 64 bits"),
        ("0x" + "f" * 5000, "a whole number of more than 64 bits"),
        ("!!int many", "no valid YAML: .*a tag like !!int stands before"),
        ("!!int [1]", "no valid YAML: expected a scalar node, but found sequence"),
        ("!!float many", "no valid YAML: .*a tag like !!int stands before"),
        ("!!float ''", "no valid YAML: .*a tag like !!int stands before"),
        ("!!bool many", "no valid YAML: .*a tag like !!int stands before"),
        ("!!python/name:os.system x", "no valid YAML: could not determine a constructor"),
        ("!!timestamp x", "no valid YAML: could not determine a constructor"),
        ("[" * 5000 + "]" * 5000, "more than 100 levels"),
        ("- " * 5000 + "x", "more than 100 levels"),
        (aliases(5000, 1), "line 4901: with its aliases written out .* more than 100 levels"),
        (aliases(50, 9), "line 1: with its aliases written out the text has more than 1,000,000 values"),
        (r'a: "\U00110000"', "no valid YAML: an escape"),
        (r'a: "\UFFFFFFFF"', "no valid YAML: an escape"),
        ("a: &a [*a]", "line 1: with its aliases written out .* more than 100 levels"),
        ("# " + "-" * 1_000_000, "more than 1,000,000 characters"),
        ("a: 1\n---\nb: 2", "no valid YAML: expected a single document"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_refused_is_told(text, says):
    with pytest.raises(ConfigError, match=says):
        read_yaml(text)


#: PyYAML writes YAML 1.1, in which some numbers of 1.2, such as 1e5, are texts that want no quotation marks.
TEXTS = st.text(max_size=9).filter(
    lambda text: not re.fullmatch(r"[-+]?[0-9.][0-9_.]*(?:[eE][-+]?[0-9]+)?|[-+]?0o[0-7_]+", text)
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=9)


@given(VALUES)
def test_what_pyyaml_writes_is_read_back(values):
    assert read_yaml(yaml.safe_dump(values)) == values


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        read_yaml(text)
