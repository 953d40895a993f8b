"""A resolved `Spec` -> the YAML text that reads back as the same `Spec`."""

import dataclasses
import re
from typing import Any

import yaml

from slmjax.spec import schema
from slmjax.spec.nodes import KINDS
from slmjax.spec.sections import Spec


class _Dumper(yaml.SafeDumper):
    """Mappings in blocks, lists in a line, no aliases; strings quoted where YAML 1.1 or 1.2 reads something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind, _pattern in KINDS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, None)
_BREAKS = re.compile("[\n\r\x85\u2028\u2029]")  # escaped, for PyYAML quotes them in a way that it does not read back
_STR = "tag:yaml.org,2002:str"
_Dumper.add_representer(
    str, lambda dumper, data: dumper.represent_scalar(_STR, data, style='"' if _BREAKS.search(data) else None)
)
_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))


def dump_spec(spec: Spec) -> str:
    """YAML text of a spec under its name, all values written out; `load_spec` reads it back to an equal spec."""
    return str(
        yaml.dump(
            {spec.name: to_dict(spec)},
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
            width=1 << 20,
        )
    )


def to_dict(spec: Spec) -> dict[str, Any]:
    """The sections of a spec as plain dicts, lists and scalars; without `search` when there is none."""
    sections = {section: _plain(getattr(spec, section)) for section in ("agent", "env", "meta", "search")}
    return {section: value for section, value in sections.items() if value is not None}


def _plain(value: Any) -> Any:
    if schema.is_hyper(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
