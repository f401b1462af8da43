"""What a user may set: recipe (pixels), job (speed and tolerance), presets, renditions.

Knows pydantic models and YAML files, nothing of images or storage.

May import: ``errors``, ``types``, ``paths``.
"""
