"""One agent per cluster: carries Assignments out and reports what became of them."""
