"""Pictures of environments, drawn with Pillow alone, so that a GIF needs neither a display nor pygame.

Every figure is a pure function of one environment's state (on the host) and its parameters and returns a uint8 image
`[height, width, 3]`. World coordinates are mapped to pixels here, with y upwards, and drawn at twice the size, because
Pillow's shapes have no anti-aliasing of their own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Color = tuple[int, int, int]

_SMOOTH = 2  # draw this much larger, then shrink
_PAPER, _INK, _LINE = (255, 255, 255), (38, 44, 56), (170, 178, 189)
_BLUE, _RED, _GOLD, _GREEN = (52, 110, 200), (208, 72, 72), (226, 170, 40), (70, 160, 100)

# Index 0 is the ground; MinAtar's Seaquest has the most channels, ten.
PALETTE = np.array(
    [
        *[(24, 28, 38), (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167)],
        *[(0, 114, 178), (250, 250, 250), (150, 90, 200), (140, 150, 160)],
    ],
    np.uint8,
)


class _Figure:
    """A canvas in world units: `width x height` pixels that show `left..right`, and upwards from `bottom`."""

    def __init__(self, width: int, height: int, left: float, right: float, bottom: float) -> None:
        self.size, self.origin, self.scale = (width, height), (left, bottom), width / (right - left) * _SMOOTH
        self.image = Image.new("RGB", (width * _SMOOTH, height * _SMOOTH), _PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> Point:
        return (x - self.origin[0]) * self.scale, self.image.height - (y - self.origin[1]) * self.scale

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self.pen.polygon([self.at(x, y) for x, y in points], fill=color)

    def dot(self, x: float, y: float, radius: float, color: Color) -> None:
        (px, py), r = self.at(x, y), radius * self.scale
        self.pen.ellipse([px - r, py - r, px + r, py + r], fill=color)

    def rod(self, start: Point, end: Point, width: float, color: Color) -> None:
        """A bar with round ends."""
        length = math.dist(start, end) or 1.0
        dx, dy = (end[1] - start[1]) / length * width / 2, (start[0] - end[0]) / length * width / 2
        corners = [(start[0] + dx, start[1] + dy), (end[0] + dx, end[1] + dy)]
        self.polygon([*corners, (end[0] - dx, end[1] - dy), (start[0] - dx, start[1] - dy)], color)
        self.dot(*start, width / 2, color)
        self.dot(*end, width / 2, color)

    def line(self, points: Sequence[Point], pixels: float, color: Color) -> None:
        self.pen.line([self.at(x, y) for x, y in points], fill=color, width=round(pixels * _SMOOTH), joint="curve")

    def array(self) -> np.ndarray:
        return np.asarray(self.image.resize(self.size, Image.Resampling.LANCZOS), np.uint8)


def cartpole(state: Any, params: Any) -> np.ndarray:
    """The cart on its track, the pole, and marks where the episode ends. `[300, 480, 3]`."""
    edge = float(params.x_threshold)
    fig = _Figure(480, 300, -edge * 1.15, edge * 1.15, -1.2 * edge / 2.4)
    unit, x, theta = edge / 2.4, float(state.x), float(state.theta)
    fig.line([(-edge * 1.2, 0.0), (edge * 1.2, 0.0)], 2, _LINE)
    for side in (-edge, edge):
        fig.line([(side, -0.15 * unit), (side, 0.15 * unit)], 3, _RED)
    fig.polygon(_rectangle(x, 0.0, 0.62 * unit, 0.36 * unit), _INK)
    axle, reach = (x, 0.12 * unit), 2 * float(params.length)  # `length` is half the pole's
    fig.rod(axle, (x + reach * math.sin(theta), axle[1] + reach * math.cos(theta)), 0.12 * unit, _GOLD)
    fig.dot(*axle, 0.07 * unit, _BLUE)
    return fig.array()


def pendulum(state: Any, params: Any) -> np.ndarray:
    """The rod (upright is the goal) and an arc for the torque, counterclockwise if positive. `[320, 320, 3]`."""
    length, theta, torque = float(params.l), float(state.theta), float(state.last_u)
    fig = _Figure(320, 320, -1.4 * length, 1.4 * length, -1.4 * length)
    fig.line([(0.0, 1.15 * length), (0.0, 1.3 * length)], 3, _GREEN)
    fig.rod((0.0, 0.0), (-length * math.sin(theta), length * math.cos(theta)), 0.16 * length, _RED)
    _arc(fig, 0.4 * length, torque / float(params.max_torque))
    fig.dot(0.0, 0.0, 0.05 * length, _INK)
    return fig.array()


def acrobot(state: Any, params: Any) -> np.ndarray:
    """Both links, hanging from the middle, and the height that the tip must pass. `[320, 320, 3]`."""
    one, two = float(params.link_length_1), float(params.link_length_2)
    reach = (one + two) * 1.12
    fig = _Figure(320, 320, -reach, reach, -reach)
    fig.line([(-reach, 1.0), (reach, 1.0)], 2, _GREEN)
    first = float(state.joint_angle1)
    both = first + float(state.joint_angle2)
    elbow = (one * math.sin(first), -one * math.cos(first))
    tip = (elbow[0] + two * math.sin(both), elbow[1] - two * math.cos(both))
    fig.rod((0.0, 0.0), elbow, 0.2, _BLUE)
    fig.rod(elbow, tip, 0.2, _BLUE)
    for joint in ((0.0, 0.0), elbow):
        fig.dot(*joint, 0.09, _GOLD)
    return fig.array()


def mountain_car(state: Any, params: Any) -> np.ndarray:
    """The valley, the car and the flag. `[350, 480, 3]`."""
    left, right, x = float(params.min_position), float(params.max_position), float(state.position)
    fig = _Figure(480, 350, left, right, -0.04)
    ground = [(p, _height(p)) for p in np.linspace(left, right, 121)]
    fig.polygon([(left, -1.0), *ground, (right, -1.0)], (236, 239, 243))
    fig.line(ground, 2, _INK)
    goal = float(params.goal_position)
    foot, top = _height(goal), _height(goal) + 0.19
    fig.line([(goal, foot), (goal, top)], 2, _INK)
    fig.polygon([(goal, top), (goal, top - 0.06), (goal + 0.08, top - 0.03)], _GREEN)
    slope = math.atan(0.45 * 3 * math.cos(3 * x))
    fig.polygon([_turn(p, slope, x, _height(x)) for p in _rectangle(0.0, 0.055, 0.16, 0.06)], _BLUE)
    for offset in (-0.045, 0.045):
        fig.dot(*_turn((offset, 0.022), slope, x, _height(x)), 0.022, _INK)
    return fig.array()


CLASSIC: dict[str, Callable[[Any, Any], np.ndarray]] = {
    "CartPole-v1": cartpole,
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car,
}


def channels(obs: np.ndarray) -> np.ndarray:
    """A grid observation `[H, W]` or `[H, W, C]` as an image: the last channel that is on gives a cell its colour."""
    layers = np.atleast_3d(np.asarray(obs)) > 0
    return grid((layers * np.arange(1, layers.shape[-1] + 1)).max(-1))


def grid(cells: np.ndarray, size: int = 320) -> np.ndarray:
    """Whole numbers `[H, W]` as an image of about `size` pixels: each number has a colour, 0 is the ground."""
    cell = max(1, size // max(cells.shape))
    image = PALETTE[np.asarray(cells) % len(PALETTE)].repeat(cell, 0).repeat(cell, 1)
    if cell >= 8:  # a thin seam, so that neighbours of one colour can be counted
        image[::cell], image[:, ::cell] = 12, 12
    return image


def _height(x: float) -> float:
    """The mountain's height at `x` (Moore, 1990)."""
    return math.sin(3 * x) * 0.45 + 0.55


def _rectangle(x: float, y: float, width: float, height: float) -> list[Point]:
    half, tall = width / 2, height / 2
    return [(x - half, y - tall), (x + half, y - tall), (x + half, y + tall), (x - half, y + tall)]


def _turn(point: Point, angle: float, x: float, y: float) -> Point:
    """`point` rotated about the origin, then moved by `(x, y)`."""
    c, s = math.cos(angle), math.sin(angle)
    return x + c * point[0] - s * point[1], y + s * point[0] + c * point[1]


def _arc(fig: _Figure, radius: float, share: float) -> None:
    """An arc from the top with an arrow head; `share` in -1..1 is its part of 150 degrees, counterclockwise."""
    if abs(share) < 0.02:
        return
    end = math.pi / 2 + share * math.radians(150)
    steps = np.linspace(math.pi / 2, end, 40)
    fig.line([(radius * math.cos(a), radius * math.sin(a)) for a in steps], 4, _BLUE)
    tip, ahead = (radius * math.cos(end), radius * math.sin(end)), end + math.copysign(math.pi / 2, share)
    size = radius * 0.3
    head = [(size, 0.0), (0.0, size * 0.6), (0.0, -size * 0.6)]
    fig.polygon([_turn(p, ahead, *tip) for p in head], _BLUE)
