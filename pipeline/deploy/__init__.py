"""Kubernetes manifests from ``infra/``, filled in and checked without a cluster.

Knows what KubeRay and a nightly run need.

May import: the modules at the root.
"""
