"""Static or data, held by the code: an `hp` of which `make` can read what is static, and nothing else.

A number that `make` reads becomes a constant of the program: every session would learn with that of one, and a schedule
would stand still at its first value. So `make` is given a stand-in for each, which refuses to be used.
"""

import dataclasses
import sys
import traceback
from typing import Any, NoReturn

from slmjax.spec import schema
from slmjax.types import HP, SpecError

_REFUSED = (
    "abs add and bool ceil complex contains divmod eq float floor floordiv format ge getitem gt hash index int invert "
    "iter le len lt matmul mod mul ne neg or pos pow radd rand rdivmod rfloordiv rmatmul rmod rmul ror round rpow rsub "
    "rtruediv rxor sub truediv trunc xor array"
).split()
_LIBRARIES = ("jax", "numpy", "optax", "flax", "contextlib", "traceback", "slmjax.spec")
_CALLERS = ("slmjax.lab", "slmjax.session", "slmjax.play", "slmjax.population")


class Data:
    """Stands for a number that may differ between sessions or change with the frame; any use of it is refused."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<data: {self._path}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__jax_array__":  # what Python and JAX look for on any object
            raise AttributeError(name)
        _refuse(self)


def _refuse(self: Data, *_: Any, **__: Any) -> NoReturn:
    place = ""
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        module = str(frame.f_globals.get("__name__"))
        if module.startswith(_CALLERS):
            break
        if not module.startswith(_LIBRARIES) and not (place and module.startswith("slmjax.")):
            place = f" ({frame.f_code.co_filename.rpartition('/')[2]}, line {line})"
            if not module.startswith("slmjax."):
                break
    raise SpecError(
        f"it is data, which may differ between sessions and change with the frame, but `make` reads it{place}: "
        "read it from the hp that init, act and update are given.",
        self._path,
    )


for _name in _REFUSED:
    setattr(Data, f"__{_name}__", _refuse)


def static_only(hp: HP) -> HP:
    """`hp` with a stand-in for each number and schedule, and for the frame."""
    parts = {name: _static(getattr(hp, name), f"agent.{name}") for name in ("algorithm", "memory", "net")}
    return HP(**parts, frame=Data("the frame"))


def _static(section: Any, path: str) -> Any:
    if not schema.is_hyper(type(section)):
        return section
    changed: dict[str, Any] = {}
    for name, annotation in schema.hints(type(section)).items():
        value, place = getattr(section, name), f"{path}.{name}"
        if value is not None and schema.is_data(annotation):
            number = float in schema.members(annotation)
            changed[name] = Data(place) if number else _static(value, place)
    return dataclasses.replace(section, **changed)
