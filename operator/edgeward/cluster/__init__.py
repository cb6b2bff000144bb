"""The rim to a Kubernetes API: requests, a cache of our own, a Lease, Events. The only package that imports kubernetes."""
