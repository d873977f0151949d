"""Drawn pictures: gradients, shapes, text, texture and noise. A function of side and number alone."""

import numpy as np
from PIL import Image, ImageDraw


def picture(side: int, number: int) -> np.ndarray:
    """One picture, [side, side, 3] uint8."""
    draws = np.random.default_rng([side, number])
    y, x = np.mgrid[0:side, 0:side] / side
    angle, frequency = draws.uniform(0, np.pi), draws.uniform(1, 12)
    wave = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
    corners = draws.uniform(0, 255, (4, 3))
    weights = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    ground = weights @ corners + draws.uniform(0, 40) * wave[..., None] * draws.uniform(-1, 1, 3)
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(draws.integers(3, 9)):
        left, top = draws.uniform(-0.1, 0.9, 2) * side
        right, bottom = left + draws.uniform(0.05, 0.5) * side, top + draws.uniform(0.05, 0.5) * side
        colour = tuple(int(value) for value in draws.integers(0, 256, 3))
        match draws.integers(0, 4):
            case 0:
                pen.rectangle((left, top, right, bottom), fill=colour)
            case 1:
                pen.ellipse((left, top, right, bottom), fill=colour)
            case 2:
                pen.line((left, top, right, bottom), fill=colour, width=int(draws.integers(1, max(2, side // 20))))
            case _:
                pen.text((left, top), "cm3 0123 codes", fill=colour, font_size=max(6, side // int(draws.integers(6, 20))))
    noise = draws.normal(0, draws.choice([0.0, 4.0, 20.0]), (side, side, 1)) * draws.uniform(0, 1, (1, 1, 3))
    return np.clip(np.asarray(image, dtype=np.float64) + noise, 0, 255).astype(np.uint8)


def pictures(side: int, first: int, count: int) -> np.ndarray:
    """Pictures `first` to `first + count`, [count, side, side, 3] uint8."""
    return np.stack([picture(side, number) for number in range(first, first + count)])
