"""One run: preflight checks, the driver, and the stages, in a worker process (``local``) or on Ray (``on_cluster``).

``driver.run_job`` is the entry, ``graph`` the order of work.

May import: ``segmenter``, ``output``, ``manifest``, ``models`` and what they may import.
"""
