module edgeward.dev/tests/cluster/tools/pause

go 1.22
