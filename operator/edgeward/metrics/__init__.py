"""The rim to Prometheus and to metrics.k8s.io: live figures of nodes, each with the time it was measured."""
