"""The snapshot: jobs, releases, sites, nodes and samples with their ages, as plain immutable data."""
