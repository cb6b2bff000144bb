"""The model artifact: what lies in a registry and, once fetched, in a folder. docs/artifact.md describes it."""
