"""What registries have. The one place where the operator uses the runtime's code, see
docs/adr/0011-the-operators-registry-client.md."""
