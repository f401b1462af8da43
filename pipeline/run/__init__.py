"""One distributed run: preflight checks, Ray cluster, the Ray Data graph, and the driver around it.

``driver.run_job`` is the entry, ``graph`` the order of work.

May import: ``segmenter``, ``output``, ``manifest``, ``models`` and what they may import.
"""
