"""`edgeward-model publish`: a model and what belongs to it, checked, into a registry. docs/publish.md describes it."""
