"""Run jobs for clients: ``POST /v1/jobs``. Each is a run of the pipeline, in a process of its own.

The state of a job is in its output (progress object, lease, run record), so it outlives the service. May import: ``run``, and
what ``serve`` may import.
"""
