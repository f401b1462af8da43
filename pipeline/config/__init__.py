"""The settings: recipe (pixels), job (speed and tolerance), presets, renditions.

Knows pydantic models and YAML files, but nothing about images or storage.

May import: ``errors``, ``types``, ``paths``.
"""
