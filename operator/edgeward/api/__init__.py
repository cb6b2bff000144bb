"""The one definition of the API edgeward.dev/v1alpha1.

Pure: pydantic and the standard library only. The CRDs in crds/ are generated from these models (see crdgen), so that
what the operator believes and what the apiserver enforces cannot drift apart.
"""
