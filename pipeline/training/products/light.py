"""Light, and the pose of an object in it. Axes: x to the right, y down, z towards the camera."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating[Any]]
"""(..., 3)."""


class Light(NamedTuple):
    """One main light and light from all around."""

    towards: tuple[float, float, float]
    """Unit vector from the object to the main light."""
    ambient: float
    """Share of the light that comes from all around."""
    hardness: float
    """0 for a clouded sky, 1 for a bare lamp."""

    def on(self, normals: Vectors) -> npt.NDArray[np.float32]:
        """Return the brightness of surfaces by their normals (..., 3), 1 where they face the light (Lambert's law)."""
        facing = np.clip(normals @ np.array(self.towards, np.float32), 0, 1)
        return np.asarray(self.ambient + (1 - self.ambient) * facing, np.float32)


class Pose(NamedTuple):
    """Rotation of an object in degrees, and the camera's distance in object heights."""

    yaw: float = 0.0
    """Around the vertical; at 0 the front faces the camera."""
    pitch: float = 0.0
    """Above 0 the camera looks down on the top."""
    roll: float = 0.0
    """In the picture, counterclockwise."""
    distance: float = 4.0

    def turn(self, points: Vectors) -> npt.NDArray[np.float64]:
        """Turn points (N, 3) around the origin."""
        yaw, pitch, roll = (np.deg2rad(angle) for angle in (self.yaw, self.pitch, self.roll))
        around_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        around_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
        around_z = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        return np.asarray(points @ (around_z @ around_x @ around_y).T, np.float64)


def draw_light(rng: np.random.Generator) -> Light:
    """Draw the light of a scene: from above, mostly from one side and from the front."""
    towards = np.array([rng.uniform(-0.9, 0.9), -rng.uniform(0.3, 1.0), rng.uniform(0.5, 1.2)])
    x, y, z = towards / np.linalg.norm(towards)
    return Light((float(x), float(y), float(z)), float(rng.uniform(0.35, 0.75)), float(rng.uniform()))
