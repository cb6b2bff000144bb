"""Whether a model may be loaded at all: who signed it, and what its file would open beside itself."""
