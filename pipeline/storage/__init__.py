"""Bytes by URI: local disks, S3, every fsspec scheme, web servers.

Knows retries, timeouts, the path allow-list and the cache of weights files; nothing of images, manifests or outputs.

May import: ``config`` and the modules at the root.
"""
