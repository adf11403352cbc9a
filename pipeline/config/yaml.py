"""YAML as this project reads it: 1e-4 is a number, only true and false are booleans, a key that is there twice is an error."""

import re

import yaml

from pipeline.config.errors import BadInput

NOT_READ = ("bool", "float", "int", "timestamp", "merge", "value")  # of YAML 1.1; the first three are read as below, the others are words


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's idea of numbers and booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in NOT_READ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes what either reader would take for more than a word."""


_FLOAT = re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _unique_mapping(loader, node, deep=False):
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in seen:
            fault = "is there twice" if isinstance(key, str) else "is not a word"
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} {fault}", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def parse(text: str, place: str):
    """The value of a YAML text. Raises BadInput naming `place`, line and fault."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{place}, line {mark.line + 1}" if mark and "\n" in text else place
        raise BadInput(f"{where}: is not valid YAML ({getattr(error, 'problem', None) or error}); mend it".replace("\n", " ")) from error
    except (ValueError, RecursionError) as error:  # an explicit tag (!!int abc), a number or a nesting beyond Python's limits
        raise BadInput(f"{place}: is not valid YAML ({error}); mend it") from error


def dump(value) -> str:
    """A plain value as YAML that `parse` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False)  # ASCII: PyYAML writes some foreign line ends bare
