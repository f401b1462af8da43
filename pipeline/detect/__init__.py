"""``matteline detect``: from a manifest with names to a manifest with boxes. ``driver.detect`` is the entry.

May import: ``run`` and what it may import.
"""
