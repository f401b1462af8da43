"""Kubernetes objects out of ``infra/``: built, filled in and judged, without a cluster and without kubectl."""
