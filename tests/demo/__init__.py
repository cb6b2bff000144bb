"""The demo: one story on a real cluster, told to a person by `make demo` and held to by tests/e2e. See docs/demo.md."""
