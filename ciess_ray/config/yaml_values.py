"""YAML text in, plain values out: the one reader of YAML, of files and of overrides alike; and back.

Numbers are those of YAML 1.2, so that ``1e-4`` is one, ``010`` is ten, and ``20:1`` or a date no more than a
text. Keys are texts that stand once. What would cost much more memory than the text itself is refused as
it is read: deep nesting, anchors that multiply, whole numbers beyond 64 bits.
"""

import json
import math
import re
from typing import Any

import yaml

from envs.errors import ConfigError

#: Bytes of a text; a sweep over 100,000 seeds has 700,000.
MAX_BYTES = 1_000_000
_MAX_DEPTH = 100
#: Values that a text may stand for, its aliases written out.
_MAX_VALUES = 1_000_000
_MAX_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"


def read_yaml(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        ConfigError: It is no YAML, a key stands twice, or its values would take more memory than is meant.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"more than {MAX_BYTES:,} characters, which is more than a configuration has.")
    try:
        # A subclass of PyYAML's safe loader: it makes plain values and nothing else.
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_extent(root)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ConfigError(f"no valid YAML: {error}") from error
    except RecursionError:
        raise ConfigError(f"more than {_MAX_DEPTH} levels of lists and sections; nest less.") from None
    except (ValueError, OverflowError, LookupError) as error:
        # PyYAML asks for whatever character an escape names, and reads whatever has the tag of a number.
        raise ConfigError(
            f"no valid YAML: an escape like \\U00110000 names no character, or a tag like !!int stands "
            f"before what is none ({error})."
        ) from error


def as_yaml(value: object) -> str:
    """A value as YAML has it: JSON is YAML, and in quotation marks a text stays one."""
    return json.dumps(value, default=str, ensure_ascii=False)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars, see below."""


def _check_extent(root: yaml.Node) -> None:
    """Refuse keys that are no texts or stand twice, and what is huge once its aliases are written out."""
    num_values, waiting = 0, [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        num_values += 1
        if num_values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: with its aliases written out the text has more than "
                f"{_MAX_VALUES:,} values, or more than {_MAX_DEPTH} levels of lists and sections; nest less."
            )
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            waiting += [(value, depth + 1) for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(item, depth + 1) for item in node.value]


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            raise ConfigError(f"line {line}: the key {_told(key)} is no text; put it into quotation marks.")
        if key.value in lines:
            raise ConfigError(
                f"the key {key.value!r} stands twice, in line {lines[key.value]} and in line {line}; "
                "keep one."
            )
        lines[key.value] = line


def _told(node: yaml.Node) -> str:
    """A scalar as it was written, at most its beginning."""
    return repr(node.value[:40]) if isinstance(node, yaml.ScalarNode) else "that is a list or a section"


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    # A whole number of very many digits takes long to read.
    value = int(text, 0 if text.lstrip("+-")[:2] in ("0o", "0x") else 10) if len(text) < 80 else math.inf
    if abs(value) > _MAX_INTEGER:
        raise ConfigError(
            f"line {node.start_mark.line + 1}: {_told(node)} is a whole number of more than 64 bits."
        )
    return int(value)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    # Booleans are also YAML 1.1's: a 'no' that became text would be taken for true.
    ("bool", r"(?i:yes|no|true|false|on|off)", [*"yYnNtTfFoO"]),
    ("int", r"[-+]?(?:[0-9][0-9_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*)", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(rf"(?:{_pattern})\Z", re.ASCII), _first)
_Loader.yaml_constructors = {
    **{
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(f"{_TAG}{kind}" for kind in ("null", "bool", "float", "str", "seq", "map")), None)
    },
    f"{_TAG}int": _integer,
}
