"""Which version each site should serve, as pure functions of the Fleet."""
