"""What the user writes, and the typed values that the other rooms read."""

from slmjax.spec.dump import dump_spec
from slmjax.spec.errors import locate
from slmjax.spec.loader import load_spec, names
from slmjax.spec.sections import Source, Spec

__all__ = ["Source", "Spec", "dump_spec", "load_spec", "locate", "names"]
