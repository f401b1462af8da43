"""Read and write bytes by URI: local disks, S3, every fsspec scheme, web servers. See README.md in this folder.

Covers retries, timeouts, the allow-list and the weights cache; knows nothing of images, manifests or outputs.

May import: ``config`` and the modules at the root.
"""
