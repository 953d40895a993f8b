"""Numbers as a person writes them."""


def number(value: float) -> str:
    """A number as a person writes it: four significant digits, more only where they stand before the point."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def compact(number: float) -> str:
    """`1234567` as `1.2M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: 42 s, 3.5 min, 2.1 h."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5940 else f"{seconds / 3600:.3g} h"


def plural(count: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{count} {noun}{'s' * (count != 1)}"
